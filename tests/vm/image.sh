#!/bin/bash
# Makes $1/image, the disk of a virtual machine: Debian 12 with systemd, sshd and the product as 'make install' puts it there,
# with nothing left to fetch; and beside it the kernel, initrd, and EFI stub. Nothing is done if it is made of the same already.
# Debian itself is kept in CACHE, apart from the product, until other packages are wanted or there. (root)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
checkout=${here%/tests/vm}
. "$here/../debian.sh"

CACHE=/var/cache/p11tpm-vm
PRODUCT=(Makefile pyproject.toml README.md LICENSE p11tpm csrc systemd) # what 'make install' reads
BUILD=(make gcc libc6-dev pkg-config libp11-kit-dev libtss2-dev libssl-dev python3-dev python3-venv ca-certificates)
MACHINE=(linux-image-cloud-amd64 initramfs-tools systemd systemd-sysv systemd-boot-efi dbus kmod udev tpm-udev)
PROGRAMS=(openssh-server openssh-client openssl tpm2-tools cryptsetup p11-kit p11-kit-modules opensc libengine-pkcs11-openssl psmisc)
SIZE=2G
# Started by default, of no use here, and slow in an emulator
MASKED=(proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount systemd-pstore.service
	systemd-journal-flush.service systemd-update-utmp.service systemd-update-utmp-runlevel.service apt-daily.timer
	apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer e2scrub_reap.service systemd-timesyncd.service getty@tty1.service modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service
	modprobe@fuse.service modprobe@loop.service)

log() {
	printf '%7.1f s  %s\n' "$(awk "BEGIN { print $EPOCHREALTIME - $began }")" "$1"
	began=$EPOCHREALTIME
}

refuse() {
	echo "Cannot make a virtual machine: $1" >&2
	exit 1
}

# The files of the product, as they are in the checkout, each with a zero byte after it
files() {
	git -c safe.directory="$checkout" ls-files -z --cached --others --exclude-standard -- "${PRODUCT[@]}"
}

# The root directory of a Debian without the product, as an archive: $1
make_debian() {
	apt_settings >"$CACHE/apt"
	sources >"$CACHE/sources"
	unshare --mount mmdebstrap --quiet --mode=root --variant=minbase --aptopt="$CACHE/apt" \
		--include="$(IFS=, && echo "${BUILD[*]},${MACHINE[*]},${PROGRAMS[*]}")" \
		bookworm "$CACHE/new.tar" - <"$CACHE/sources" || refuse "mmdebstrap failed"
	find "$CACHE" -name 'debian-*.tar' -delete
	mv "$CACHE/new.tar" "$1"
	log "Debian"
}

# That Debian, made if it is not there, into the empty directory $2; no other checkout takes it away meanwhile
unpack_debian() {
	mkdir -p "$CACHE"
	exec 8>"$CACHE/lock"
	flock 8
	[ -f "$1" ] || make_debian "$1"
	tar -C "$2" -xf "$1"
	exec 8>&-
}

# The product, in the root directory $1; what is mounted for it is gone afterwards
install_product() {
	local root=$1 environment
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	carry_over "$root"
	mapfile -t environment < <(fetch_environment)
	env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "${environment[@]}" \
		chroot "$root" /bin/sh -euc 'update-ca-certificates >/dev/null 2>&1
			make --silent -C /srv/p11tpm install >/dev/null
			gcc -std=gnu11 -O1 $(pkg-config --cflags p11-kit-1) -I/srv/host -o /usr/local/bin/signer /srv/vm/inside/signer.c'
}

# What makes a machine of a root directory: users, units, no names to be resolved
set_up() {
	local root=$1 unit
	chroot "$root" /bin/sh -euc 'useradd --create-home --shell /bin/bash --groups tss alice
		useradd --create-home --shell /bin/bash bob
		usermod --password "*" root'
	for unit in "${MASKED[@]}"; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
	chroot "$root" systemctl --quiet disable ssh.service # to be started by those who need it
	cp "$here/inside/inside.service" "$root/etc/systemd/system/"
	mkdir -p "$root/inside" "$root/etc/systemd/system/serial-getty@ttyS0.service.d" \
		"$root/etc/systemd/system/multi-user.target.wants"
	ln -s ../inside.service "$root/etc/systemd/system/multi-user.target.wants/"
	printf '[Unit]\nConditionKernelCommandLine=!inside.parts\n[Service]\nExecStart=\nExecStart=-/sbin/agetty -o "-p -f -- \\\\u" --noclear --autologin root %%I $TERM\n' \
		>"$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf"
	echo p11tpm >"$root/etc/hostname"
	printf '127.0.0.1 localhost p11tpm\n' >"$root/etc/hosts"
	: >"$root/etc/resolv.conf"
	: >"$root/etc/fstab"
	chroot "$root" systemd-machine-id-setup >/dev/null 2>&1
	install "$here/inside/tpm2-pcr" "$root/etc/initramfs-tools/scripts/init-bottom/"
	echo MODULES=list >"$root/etc/initramfs-tools/conf.d/modules" # the kernel has what it takes to find its root
	chroot "$root" update-initramfs -u >/dev/null 2>&1
}

if [ "${1:-}" = install ]; then
	install_product "$2"
	exit
fi
[ "$(id -u)" = 0 ] || refuse "only root can"
[ -x /usr/bin/mmdebstrap ] && [ -x /usr/bin/apt-get ] || refuse "Debian's mmdebstrap and apt are needed"
unshare --mount true || refuse "no right to mounts of its own"
place=$1 began=$EPOCHREALTIME
mkdir -p "$place"
exec 9>"$place/lock" # two of these at a time
flock 9
packages=("${BUILD[@]}" "${MACHINE[@]}" "${PROGRAMS[@]}")
debian=$( (
	echo "${packages[@]}"
	apt-cache policy "${packages[@]}" | sed -n '/Candidate/p'
) | sha256sum | cut -c 1-16)
cd "$checkout"
key=$( (
	echo "$debian"
	files | xargs -0 sha256sum
	sha256sum tests/debian.sh tests/vm/image.sh tests/vm/inside/{signer.c,inside.service,tpm2-pcr} tests/host/host.h
) | sha256sum | cut -c 1-16)
[ "$(cat "$place/key" 2>/dev/null)" != "$key" ] || exit 0
root=$place/root
trap 'rm -rf --one-file-system "$root"' EXIT
rm -rf --one-file-system "$root" "$place/key"
mkdir "$root"
unpack_debian "$CACHE/debian-$debian.tar" "$root"
mkdir -p "$root/srv/p11tpm" "$root/srv/vm/inside" "$root/srv/host"
files | xargs -0 cp --parents -t "$root/srv/p11tpm"
cp "$here/inside/signer.c" "$root/srv/vm/inside/"
cp tests/host/host.h "$root/srv/host/"
log "its files"
unshare --mount bash "$0" install "$root"
log "make install"
set_up "$root"
rm -rf "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/usr/share/doc" "$root/usr/share/locale" "$root/root/.cache"
cp "$root"/boot/vmlinuz-* "$place/vmlinuz"
cp "$root"/boot/initrd.img-* "$place/initrd"
cp "$root/usr/lib/systemd/boot/efi/linuxx64.efi.stub" "$root/usr/lib/os-release" "$place/"
rm -f "$place/image"
mke2fs -q -t ext4 -O ^has_journal -L root -d "$root" "$place/image" "$SIZE" >/dev/null
echo "$key" >"$place/key"
log "the image, $(du -h "$place/image" | cut -f 1)"
