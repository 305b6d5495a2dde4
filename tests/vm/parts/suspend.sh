# Suspend to RAM (ACPI S3): programs that are logged in meanwhile.

SIGNATURES=1000

# Suspend the machine, until its clock wakes it
suspend() {
	local before=$(cat /sys/power/suspend_stats/success)
	rtcwake -m mem -s 4
	[ "$(cat /sys/power/suspend_stats/success)" = $((before + 1)) ]
}

agent_signs() {
	ssh-add -T ssh.pub
}

has_none() {
	! has_session
}

token_of_root
cd /root
export SSH_AUTH_SOCK=/tmp/agent
check "suspend to RAM is there" sh -c 'echo deep >/sys/power/mem_sleep'
check "a key is made" p11tpm key generate --label ssh --pin-file $PIN_FILE
p11tpm key public ssh >ssh.pub
printf '#!/bin/sh\necho %s\n' "$PIN" >askpass
chmod 700 askpass
check "ssh-agent starts" ssh-agent -a $SSH_AUTH_SOCK
check "and logs in" env SSH_ASKPASS=/root/askpass SSH_ASKPASS_REQUIRE=force ssh-add -q -s $MODULE
check "it signs" agent_signs
check "and has a session" until_true has_session
before=$(tpm2_pcrread sha256)
check "the machine is suspended, and wakes" suspend
check "the agent signs" agent_signs
check "it has none when it is idle" until_true has_none
check "the machine is suspended once more" suspend
check "the agent signs again" agent_signs
signer $MODULE $SIGNATURES 2>/dev/null & busy=$!
check "another program logs in" until_true has_session
check "the machine is suspended while it signs" suspend
check "it goes on" kill -0 $busy
wait $busy && status=0 || status=$?
equal "each of its $SIGNATURES signatures was made" 0 $status
check "a new program logs in and signs" signer $MODULE 20
equal "the PCRs are as they were" "$before" "$(tpm2_pcrread sha256)"
