# An ordinary user in group tss, and one outside; the provider, the agent, several at once, after idle seconds.

home=/home/alice
printf '#!/bin/sh\necho %s\n' "$PIN" >/usr/local/bin/askpass
chmod 755 /usr/local/bin/askpass

alice() {
	as alice env SSH_ASKPASS=/usr/local/bin/askpass SSH_ASKPASS_REQUIRE=force SSH_AUTH_SOCK=/tmp/agent "$@"
}

by_provider() {
	alice ssh -n -o PKCS11Provider=$MODULE -o IdentityAgent=none alice@localhost "$@"
}

by_agent() {
	alice ssh -n alice@localhost "$@"
}

at_once() {
	by_provider true & one=$!
	by_agent true & two=$!
	by_agent true & three=$!
	wait $one && wait $two && wait $three
}

check "root starts sshd" systemctl start ssh
refused "a user outside the group is told what to do" "usermod -aG tss bob" as bob p11tpm doctor
refused "and is refused by the module" "no permission for the TPM" as bob p11tpm init --no-pin
as alice sh -c "umask 077 && printf %s $PIN >pin && mkdir .ssh && ssh-keyscan -t ed25519 localhost >.ssh/known_hosts 2>&1"
check "a user in the group makes a token and a key" as alice p11tpm init --pin-file $home/pin
as alice sh -c 'p11tpm key public ssh >.ssh/authorized_keys'
check "doctor finds nothing wrong" as alice p11tpm doctor
check "ssh logs in by the provider" by_provider true
check "ssh-agent starts" alice ssh-agent -a /tmp/agent
check "ssh-add gives it the module" alice ssh-add -q -s $MODULE
for time in first second third; do
	check "the $time login by the agent" by_agent true
done
check "three logins at once" at_once
sleep 12 # the connection to the TPM closes after 10
equal "nothing of it is in the TPM while it is idle" "" "$(tpm2_getcap handles-saved-session; tpm2_getcap handles-loaded-session)"
check "a login after idle seconds" by_agent true
