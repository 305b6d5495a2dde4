# Measured boot: the firmware's PCRs and its log, and secrets that systemd opens by a signed policy of PCR 11.

LOG=/sys/kernel/security/tpm0/binary_bios_measurements
KEY=/run/systemd/tpm2-pcr-public-key.pem
SIGNATURE=/run/systemd/tpm2-pcr-signature.json
DISK=/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_scratch # whose serial number it is
PASSPHRASE=passphrase
CREDENTIAL=/root/credential

# The values of PCRs, one a line, by tpm2_pcrread or tpm2_eventlog
values() {
	sed -nE 's/^ *([0-9]+) *: 0x([0-9A-Fa-f]{64})$/\1 \2/p' | tr A-F a-f
}

pcrs() {
	tpm2_pcrread "sha256:$1" | values
}

# What the log says that PCRs are, but those that Linux (10) and systemd's stub and services (11) go on with
replayed() {
	tpm2_eventlog $LOG 2>/dev/null | sed -n '/^  sha256:/,$p' | values | grep -vE '^1[01] '
}

open_credential() {
	[ "$(systemd-creds decrypt --name=secret $CREDENTIAL - 2>&1)" = secret ]
}

attach() {
	/lib/systemd/systemd-cryptsetup attach tried $DISK - tpm2-device=auto,headless=1 && /lib/systemd/systemd-cryptsetup detach tried
}

policies_open() {
	check "the credential is opened by the signed policy, $1" open_credential
	check "and so is the volume" attach
}

signs() {
	check "20 signatures, $1" signer $MODULE 20
}

if restarted; then
	check "the files about PCR 11 are there again" test -s $SIGNATURE -a -s $KEY
	policies_open "after a restart"
	signs "after a restart"
	exit
fi
filled=$(pcrs 0,1,2,3,4,5,6,7,9,11 | grep -cvE ' (0{64}|f{64})$') || true
equal "PCRs 0 to 7, 9 and 11 are filled" 10 "$filled"
log=$(replayed)
equal "the log has these PCRs" "0 1 2 3 4 5 6 7 9" "$(awk '{ print $1 }' <<<"$log" | xargs)"
equal "it replays to them" "$log" "$(pcrs "$(awk '{ print $1 }' <<<"$log" | paste -sd ,)")"
check "systemd has the key and the signature for PCR 11" test -s $SIGNATURE -a -s $KEY
token_of_root
check "a key is made" signer $MODULE make 1
signs "after a measured boot"
printf secret >/root/secret
check "a credential is bound to the signed policy, and to PCR 7" \
	systemd-creds encrypt --with-key=tpm2-with-public-key --tpm2-pcrs=7 --name=secret /root/secret $CREDENTIAL
printf %s $PASSPHRASE | cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $DISK -
check "so is a volume" env PASSWORD=$PASSPHRASE systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs=7 --tpm2-public-key=$KEY \
	--tpm2-public-key-pcrs=11 $DISK
policies_open "now"
tpm2_pcrextend "11:sha256=$(sha256sum <<<"something else" | cut -d ' ' -f 1)"
refused "with something else in PCR 11 the credential is refused" "find signature for this PCR bank" systemd-creds decrypt --name=secret $CREDENTIAL -
refused "and so is the volume" "find signature for this PCR bank" attach
signs "with a token that is not bound to it"
restart
