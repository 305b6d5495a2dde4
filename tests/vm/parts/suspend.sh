# Suspend to RAM (S3), while a program has a session in the TPM.

pcrs() {
	tpm2_pcrread sha256
}

token_of_root
signer $MODULE make 1
before=$(pcrs)
signer $MODULE 1 1 15 2>/dev/null & one=$!
check "a program has a session" until_true has_session
echo deep >/sys/power/mem_sleep
check "the machine sleeps and wakes" rtcwake --mode mem --seconds 4
check "the kernel has slept" sh -c 'dmesg | grep -q "ACPI: PM: Waking up from system sleep state S3"'
status=0
wait $one || status=$?
equal "the program signs on" 0 $status
check "another one logs in and signs" signer $MODULE 1
equal "the PCRs are as before" "$before" "$(pcrs)"
