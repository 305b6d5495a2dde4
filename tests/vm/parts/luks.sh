# A volume that systemd opens by a key in the TPM, by its recipe: now, and when the machine starts.

DISK=/dev/nvme1n1
PASSPHRASE=passphrase

opened() {
	until_true test -e /dev/mapper/data
}

if restarted; then
	check "the volume is open after a start, by crypttab" opened
	check "and has what was written to it" sh -c 'mount /dev/mapper/data /mnt && grep -q written /mnt/file'
	exit
fi
token_of_root
p11tpm key generate --label disk --algorithm rsa2048 --pin-file $PIN_FILE >/dev/null
cd /root
PKCS11_MODULE_PATH=$MODULE openssl req -new -x509 -days 7300 -subj /CN=disk -out disk.pem \
	-key "org.openssl.engine:pkcs11:pkcs11:token=test;object=disk;type=private;pin-source=file:$PIN_FILE" 2>/dev/null
check "the certificate is imported" p11tpm cert import disk.pem
printf %s $PASSPHRASE | cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $DISK -
check "systemd-cryptenroll" env PASSWORD=$PASSPHRASE PIN=$PIN systemd-cryptenroll --pkcs11-token-uri="pkcs11:token=test;object=disk" $DISK
echo "pin-file = $PIN_FILE" >/etc/p11tpm.conf
check "cryptsetup opens it by its token" cryptsetup open --test-passphrase --token-only $DISK
check "systemd-cryptsetup attaches it" /lib/systemd/systemd-cryptsetup attach tried $DISK - pkcs11-uri=auto
check "and detaches it" /lib/systemd/systemd-cryptsetup detach tried
echo "data $DISK - pkcs11-uri=auto,nofail" >/etc/crypttab
systemctl daemon-reload
check "the unit of crypttab starts" systemctl start systemd-cryptsetup@data
check "it is open" opened
check "it takes a file system" sh -c 'mkfs.ext4 -q /dev/mapper/data && mount /dev/mapper/data /mnt && echo written >/mnt/file && umount /mnt'
restart
