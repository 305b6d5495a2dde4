#!/bin/bash
# Makes a fresh Debian 12 that has git, make and Python 3 and nothing else, and runs newcomer.py there, in a clone of
# HEAD. apt and pip are set up as they are here; nothing that is installed here can be seen there.
# Neither files nor mounts nor processes stay, however this ends: the new machine has mounts and processes of its own,
# which the kernel ends with the first process there, and that one with this script.
#   make newcomer    installs mmdebstrap and runs this (root)
set -euo pipefail
LIMIT=20m
. "$(dirname "$0")/../debian.sh"

refuse() {
	echo "Cannot make a new machine: $1" >&2
	exit 1
}

# Within mounts and processes of its own: the machine below $1, for the checkout $2
inside() {
	local root=$1 checkout=$2 began=$EPOCHREALTIME
	apt_settings >"$root.apt"
	mmdebstrap --quiet --mode=root --variant=minbase --include=git,make,python3 --aptopt="$root.apt" bookworm "$root" - \
		<"$root.sources" || refuse "mmdebstrap failed"
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no package starts a service
	chmod 755 "$root/usr/sbin/policy-rc.d"
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	carry_over "$root"
	git config --file "$root/etc/gitconfig" safe.directory "*" # the checkout and its clones have several owners
	GIT_CONFIG_GLOBAL=$root/etc/gitconfig git clone --quiet --bare --depth 1 "file://$checkout" "$root/srv/p11tpm.git"
	printf '%7.1f s  %s\n' "$(awk "BEGIN { print $EPOCHREALTIME - $began }")" "a new Debian $(cat "$root/etc/debian_version")"
	local environment
	mapfile -t environment < <(fetch_environment)
	env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "${environment[@]}" \
		chroot "$root" /bin/sh -euc 'cd
			git clone --quiet file:///srv/p11tpm.git
			exec python3 -B p11tpm/tests/newcomer/newcomer.py'
}

if [ "${1:-}" = inside ]; then
	inside "$2" "$3"
	exit
fi
[ "$(id -u)" = 0 ] || refuse "only root can"
[ -x /usr/bin/mmdebstrap ] && [ -x /usr/bin/apt-get ] || refuse "Debian's mmdebstrap and apt are needed"
place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
chmod 755 "$place" # apt fetches as a user of its own
sources >"$place/root.sources"
[ -s "$place/root.sources" ] || refuse "none of apt's sources is an archive of Debian 12"
own=(setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc)
"${own[@]}" mount --bind "$place" "$place" || refuse "no right to mounts and processes of its own"
"${own[@]}" timeout --kill-after=10 "$LIMIT" bash "$0" inside "$place/root" "$(cd "$(dirname "$0")/../.." && pwd -P)" || {
	status=$?
	[ "$status" != 124 ] || echo "Not done within $LIMIT" >&2
	exit "$status"
}
