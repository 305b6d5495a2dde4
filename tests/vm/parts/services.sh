# Units as they are shipped, under a real systemd: the agent with sshd's host key, by its recipe, and step-ca's.

UNITS=/etc/systemd/system
AGENT=/run/ssh-host-agent/socket

unit() {
	mkdir -p "$UNITS/$1.service.d"
	cat >"$UNITS/$1.service.d/$2.conf"
}

# in_unit PROPERTY... -- COMMAND...: in a unit of its own
in_unit() {
	local properties=()
	while [ "$1" != -- ]; do
		properties+=(-p "$1")
		shift
	done
	shift
	systemd-run --quiet --wait --pipe "${properties[@]}" "$@"
}

host_key() {
	rm -f /root/.ssh/known_hosts
	echo "localhost $(cut -d ' ' -f 1,2 /etc/ssh/ssh_host_tpm_key.pub)" >/tmp/known_hosts
	ssh -n -v -o UserKnownHostsFile=/tmp/known_hosts -o HostKeyAlgorithms=rsa-sha2-256 -o StrictHostKeyChecking=yes \
		-o BatchMode=yes localhost true
}

agent_has_key() {
	SSH_AUTH_SOCK=$AGENT ssh-add -L | grep -q ssh-rsa
}

step_ca_signs() {
	rm -f /var/lib/step-ca/signature
	systemctl "$1" step-ca && until_true test -s /var/lib/step-ca/signature &&
		openssl dgst -sha256 -verify /var/lib/step-ca/public.pem -signature /var/lib/step-ca/signature /usr/local/bin/step-ca
}

token_of_root
p11tpm key generate --label host --algorithm rsa2048 --pin-file $PIN_FILE >/dev/null
p11tpm key public host >/etc/ssh/ssh_host_tpm_key.pub
chmod 600 /etc/ssh/ssh_host_tpm_key.pub
printf '[Service]\nStandardInput=file:%s\n' $PIN_FILE | unit ssh-host-agent pin
systemctl daemon-reload
check "the agent of sshd's host key starts" systemctl enable --now ssh-host-agent
check "and has the key" agent_has_key
printf 'HostKeyAgent %s\nHostKey /etc/ssh/ssh_host_tpm_key.pub\nHostKey /etc/ssh/ssh_host_ed25519_key\n' $AGENT >/etc/ssh/sshd_config.d/tpm.conf
systemctl start ssh
check "sshd takes the key" sh -c "sshd -t && systemctl reload-or-restart ssh"
check "sshd listens again" until_true sh -c "ssh-keyscan -t ed25519 localhost | grep -q ssh-ed25519"
says "sshd proves that it has the host key in the TPM" "Host 'localhost' is known and matches the RSA host key" host_key
check "the agent starts again" systemctl restart ssh-host-agent
says "sshd signs by it" "matches the RSA host key" host_key
systemctl kill --kill-whom=main --signal=SEGV ssh-host-agent
check "it is started again after a crash" until_true agent_has_key
check "it stops" systemctl stop ssh-host-agent
refused "and is gone" "No such file" ls $AGENT

# A program in the place of step-ca, which would have to be made by a compiler of Go: the unit is what is tried.
cat >/usr/local/bin/step-ca <<-END
	#!/bin/sh
	set -e
	pkcs11-tool --module $MODULE --login --sign --mechanism ECDSA-SHA256 --label ca --signature-format openssl \
		--input-file /usr/local/bin/step-ca --output-file signature
	exec sleep infinity
END
chmod 755 /usr/local/bin/step-ca
useradd --system --home-dir /var/lib/step-ca --groups tss step-ca
install -d -o step-ca -m 700 /var/lib/step-ca
install -o step-ca -m 600 $PIN_FILE /var/lib/step-ca/pin
as step-ca sh -euc 'p11tpm token create --label step-ca --pin-file pin >/dev/null
	p11tpm key generate --label ca --pin-file pin >/dev/null
	p11tpm key public ca --format pem >public.pem
	rm pin'
check "step-ca's unit starts, with the PIN as a credential, and signs" step_ca_signs start
check "and again" step_ca_signs restart
systemctl kill --kill-whom=main --signal=SEGV step-ca
check "systemd starts it again after a crash" until_true sh -c '[ $(systemctl show -P NRestarts step-ca) = 1 ]'
systemctl stop step-ca
systemd-creds encrypt --quiet --name=p11tpm.pin $PIN_FILE /etc/p11tpm/pin.cred 2>/dev/null
printf '[Service]\nLoadCredential=\nLoadCredentialEncrypted=p11tpm.pin:/etc/p11tpm/pin.cred\n' | unit step-ca credential
systemctl daemon-reload
systemctl reset-failed step-ca 2>/dev/null || true # it is not loaded while nobody needs it
check "an encrypted credential does as well" step_ca_signs start
systemctl stop step-ca

check "root without capabilities may not look into a hidden home, which has no settings" \
	in_unit ProtectHome=yes CapabilityBoundingSet= -- p11tpm token list
check "nor may a user" \
	in_unit User=alice ProtectHome=yes StateDirectory=alice Environment=P11TPM_STORE=/var/lib/alice -- p11tpm init --no-pin
check "nor where it is inaccessible" \
	in_unit User=alice InaccessiblePaths=/home/alice StateDirectory=alice Environment=P11TPM_STORE=/var/lib/alice -- p11tpm key list
refused "without DeviceAllow= the TPM is closed" "no permission for the TPM" \
	in_unit DevicePolicy=closed -- p11tpm key generate --label other --pin-file $PIN_FILE
check "with it, it is open" \
	in_unit DevicePolicy=closed "DeviceAllow=/dev/tpmrm0 rw" -- p11tpm key generate --label other --pin-file $PIN_FILE
refused "PrivateDevices= takes the TPM away" "no TPM at device:/dev/tpmrm0" \
	in_unit PrivateDevices=yes -- p11tpm key generate --label another --pin-file $PIN_FILE
