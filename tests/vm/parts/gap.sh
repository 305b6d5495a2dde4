# Sessions that are not used while the TPM saves 65,535 others (TPM_PT_CONTEXT_GAP_MAX): of two foreign programs, and of ours.

PASS=66000
BETWEEN=1000 # sessions are saved after the first program has its own, and before the second has

saves() {
	python3 /inside/inside/hold.py pass "$1"
}

# holds NUMBER: one more foreign program has a session, and uses it when there is a line in the pipe use.NUMBER
holds() {
	mkfifo "use.$1"
	python3 /inside/inside/hold.py start <>"use.$1" >"said.$1" &
	check "foreign program $1 has a session" until_true grep -q held "said.$1"
}

# gap WORDS: the TPM saves sessions for so long that nobody can have one by the manager
gap() {
	refused "$1" "0901$" saves $PASS
	figure "seconds" $SECONDS
	refused "so another program has none" "Bad address" python3 /inside/inside/hold.py start
	refused "nor have we" "C_Login.*0x31" signer $MODULE 1
}

token_of_root
cd /root
p11tpm key generate --label ssh --pin-file $PIN_FILE >/dev/null
p11tpm key public ssh >ssh.pub
printf '#!/bin/sh\necho %s\n' "$PIN" >askpass
chmod 700 askpass
export SSH_AUTH_SOCK=/tmp/agent
check "ssh-agent starts" ssh-agent -a $SSH_AUTH_SOCK
check "and logs in" env SSH_ASKPASS=/root/askpass SSH_ASKPASS_REQUIRE=force ssh-add -q -s $MODULE
check "it signs" ssh-add -T ssh.pub
check "and has a session, which it does not use from now on" until_true has_session
holds 1
check "other sessions are saved meanwhile" saves $BETWEEN
holds 2
gap "in the end the TPM saves no other one"
echo >use.1
check "program 1 uses its session again, so none is older than that of program 2" until_true grep -q used said.1
check "we log in and sign at once" signer $MODULE 1
check "our agent signs" ssh-add -T ssh.pub
check "doctor finds nothing wrong" p11tpm doctor
gap "soon the TPM saves no other one because of program 2"
says "the log names the cause and the remedy" "another program has had one for very long without using it.*tpm2_flushcontext" \
	journalctl -t p11tpm
refused "doctor says so" "tpm2_flushcontext -T device:/dev/tpm0 -s" p11tpm doctor
check "what doctor says helps" tpm2_flushcontext -T device:/dev/tpm0 -s
check "we log in and sign" signer $MODULE 1
check "our agent signs again" ssh-add -T ssh.pub
check "doctor finds nothing wrong now" p11tpm doctor
kill $(jobs -p)
