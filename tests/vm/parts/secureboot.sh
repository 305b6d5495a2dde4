# What the firmware's Secure Boot makes of the machine. (What it must be is compared by those who set the firmware up.)

STATE=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c # UEFI 2.10, section 3.3: after 4 bytes of attributes

figure "Secure Boot" "$(od -An -t u1 -j 4 $STATE | tr -d ' ')"
figure "lockdown" "$(sed 's/.*\[\(.*\)\].*/\1/' /sys/kernel/security/lockdown)"
figure "PCR 7" "$(tpm2_pcrread sha256:7 | sed -n 's/.*0x//p')"
token_of_root
check "a key is made" signer $MODULE make 1
check "20 signatures" signer $MODULE 20
check "doctor finds nothing wrong" p11tpm doctor
