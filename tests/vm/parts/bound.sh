# A token that is bound to PCR 7 and to the signed values of PCR 11, by one start of the machine after the other, whose firmware
# and kernel differ; the kernel's command line says what is done.

DISK=/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_scratch
STORE=/var/lib/p11tpm
CODE=$STORE/code
OFF=$STORE/off
FAILED=0x6 # CKR_FUNCTION_FAILED

opens() {
	check "the token opens, and signs" signer $MODULE 5
	check "ssh logs in by it" ssh -n -o PKCS11Provider=$MODULE -o IdentityAgent=none root@localhost true
	check "doctor finds nothing wrong" p11tpm doctor
}

refused_here() {
	refused "the token does not open" "C_Login.*$FAILED" signer $MODULE 1
	says "the log says why" "$1" journalctl -t p11tpm
	refused "so does doctor" "bound to" p11tpm doctor
	says "no try was counted" "LOCKOUT_COUNTER: *0x0$" tpm2_getcap properties-variable
}

recovers() {
	check "the recovery code gives it back" p11tpm token recover --recovery-file $CODE --pin-file $PIN_FILE
	opens
}

ssh_to_itself() {
	mkdir -p /root/.ssh
	p11tpm key public ssh >/root/.ssh/authorized_keys
	systemctl start ssh
	ssh-keyscan -t ed25519 localhost >/root/.ssh/known_hosts 2>/dev/null
}

step=$(sed -n 's/.*bound\.step=\([^ ]*\).*/\1/p' /proc/cmdline)
mkdir -p $STORE /etc/p11tpm
[ "$step" != bind ] || mkfs.ext4 -q $DISK
mount $DISK $STORE
chmod 700 $STORE
(umask 077 && printf %s "$PIN" >$PIN_FILE)
echo "pin-file = $PIN_FILE" >/etc/p11tpm.conf
[ "$step" != bind ] || {
	token_of_root
	p11tpm key generate --label ssh --pin-file $PIN_FILE >/dev/null
}
ssh_to_itself
case $step in
bind)
	opens
	check "it is bound" sh -c "umask 077 && p11tpm token bind --pcr 7 --signed-pcr 11 --pin-file $PIN_FILE >$CODE"
	opens
	;;
opens) opens ;;
refused) refused_here "no signature for the present PCR 11" ;;
recover)
	refused_here "PCR 7"
	tpm2_pcrread sha256:7 | sed -n 's/.*0x/7:sha256=/p' >$OFF
	recovers
	;;
reseal)
	refused_here "PCR 7"
	recovers
	check "it shall open without Secure Boot, too" p11tpm token reseal --next $OFF --pin-file $PIN_FILE
	opens
	;;
esac
umount $STORE
