# Sessions that are not used while the TPM saves 65,535 others (TPM_PT_CONTEXT_GAP_MAX): ours, and a foreign one.

PASS=66000

saves() {
	python3 /inside/inside/hold.py pass $PASS
}

token_of_root
signer $MODULE make 1
coproc holder { exec python3 /inside/inside/hold.py start; }
read -r -t $SOON said <&"${holder[0]}"
equal "a foreign program holds a session" held "$said"
refused "other programs cannot save theirs in the end" "Bad address" saves
figure "seconds" $SECONDS
refused "we are refused" "C_Login.*0x31" signer $MODULE 1
says "the log names the cause and the remedy" "another program has had one for very long without using it.*tpm2_flushcontext" \
	journalctl -t p11tpm
refused "doctor says so" "tpm2_flushcontext -T device:/dev/tpm0 -s" p11tpm doctor
check "what doctor says helps" tpm2_flushcontext -T device:/dev/tpm0 -s
check "we log in and sign" signer $MODULE 1
check "doctor finds nothing wrong" p11tpm doctor
kill $holder_PID
signer $MODULE 1 1 6000 2>/dev/null & idle=$!
check "one of ours is logged in, and does not use the TPM" until_true has_session
check "another program saves its session $PASS times" saves
figure "seconds" $SECONDS
check "we log in and sign" signer $MODULE 1
kill $idle
