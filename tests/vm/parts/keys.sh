# What the kernel's resource manager is sent for a login and a signature, by several settings; what stays in the TPM.

COUNT=20

# counts WORDS LOGIN FURTHER [KEYS [SIGNER]]: the numbers of commands for login, first signature and closing, and for each further
# signature, are no more than these
counts() {
	local words=$1 login=$2 further=$3 keys=${4:-1} ms
	ms=$(trace signer $MODULE $COUNT "$keys" 2>&1) || { echo "not ok - $words: $ms"; return; }
	at_most "$words: login, first signature, closing" "$login" "$(sent login closing)"
	at_most "$words: each further signature" "$further" $((($(sent further) + COUNT - 1) / COUNT))
	figure "$words: further commands" "$(commands further | sort | uniq -c | tr -s ' \n' ' ')"
	figure "$words: each further signature, ms" "${ms#> }"
}

at_most() {
	figure "$1" "$3 commands"
	if [ "$3" -gt 0 ] && [ "$3" -le "$2" ]; then echo "ok - $1: $2 at most"; else echo "not ok - $1: $3, not $2 at most"; fi
}

nothing_loaded() {
	[ -z "$(loaded)" ]
}

loaded() {
	for kind in transient loaded-session saved-session; do tpm2_getcap -T device:/dev/tpm0 "handles-$kind"; done
}

something_loaded() {
	[ -n "$(loaded)" ]
}

token_of_root
p11tpm key generate --label first --pin-file $PIN_FILE >/dev/null
check "20 keys are made" signer $MODULE make 19
check "what an earlier part has in the TPM ends while it is idle, which takes commands too" until_true nothing_loaded
counts "one key" 35 6
counts "20 keys in turn" 35 16 20
signer $MODULE 1 20 60 2>/dev/null &
check "a program that has just signed has a session" until_true something_loaded
check "nothing is left in the TPM when it is idle" until_true nothing_loaded
kill -9 $!
wait $! 2>/dev/null || true
signer $MODULE 1 20 60 2>/dev/null &
check "another one signs" until_true something_loaded
kill -9 $!
wait $! 2>/dev/null || true
check "nor is anything left when it was killed" nothing_loaded
echo "bus = trusted" >/etc/p11tpm.conf
counts "bus = trusted" 20 4
echo "tcti = device:/dev/tpm0" >/etc/p11tpm.conf
counts "/dev/tpm0" 8 1
counts "/dev/tpm0, 20 keys in turn" 8 3 20
rm /etc/p11tpm.conf
says "doctor says what a resident key would save" "p11tpm key resident" p11tpm doctor
check "a key is made resident" p11tpm key resident first --pin-file $PIN_FILE
counts "resident" 24 3
