#!/bin/bash
# Makes a fresh Debian 12 that has git, make and Python 3 and nothing else, and runs newcomer.py there, in a clone of
# HEAD. apt and pip are set up as they are here; nothing that is installed here can be seen there.
# Neither files nor mounts nor processes stay, however this ends: the new machine has mounts and processes of its own,
# which the kernel ends with the first process there, and that one with this script.
#   make newcomer    installs mmdebstrap and runs this (root)
set -euo pipefail
LIMIT=20m

refuse() {
	echo "Cannot make a new machine: $1" >&2
	exit 1
}

# Debian's own archives among apt's sources here, as lines of sources.list(5)
sources() {
	apt-get update -qq >&2
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk '$1 == "Debian" && $2 ~ /^bookworm(-updates|-security)?$/ { print "deb", $3, $4, $5 }'
}

# How apt reaches them: proxies, time-outs, which dates it takes
apt_settings() {
	apt-config dump --no-empty --format '%F "%v";%n' Acquire
}

# Where pip looks for settings: those of the machine, and of whoever runs this
MACHINE_PIP=(/etc/xdg/pip/pip.conf /etc/pip.conf)
USER_PIP=(.pip/pip.conf .config/pip/pip.conf)

OWN_CERTIFICATES=/usr/local/share/ca-certificates # update-ca-certificates(8)

# NAME=VALUE for what pip and programs that fetch something take from the environment
fetch_environment() {
	env -0 | sed -znE '/^(pip_[a-z_]+|[a-z]+_proxy|ssl_cert_file|ssl_cert_dir|requests_ca_bundle)=/Ip' | tr '\0' '\n'
}

# Copies the settings of pip, the files and folders that they name, and the certificates that this machine trusts
# besides Debian's, to the machine below $1
carry_over() {
	local root=$1 file path
	for file in "${MACHINE_PIP[@]}"; do
		[ ! -f "$file" ] || install -D -m 644 "$file" "$root$file"
	done
	for file in "${USER_PIP[@]}"; do
		[ ! -f "$HOME/$file" ] || for home in /root /etc/skel; do install -D -m 644 "$HOME/$file" "$root$home/$file"; done
	done
	{
		apt_settings
		fetch_environment
		cat "${MACHINE_PIP[@]}" "${USER_PIP[@]/#/$HOME/}" 2>/dev/null || true
	} | sed -E 's#[a-z]+://[^/[:space:]][^[:space:]]*##g; s#file://##g' | tr -s '[:space:]"=,;' '\n' | sed -n '/^\/./p' |
		while read -r path; do
			path=${path%/simple/} path=${path%/simple} # an index of pip has its packages beside it
			if [ -e "$root$path" ]; then
				continue
			elif [ -f "$path" ]; then
				install -D -m 644 "$path" "$root$path"
			elif [ -d "$path" ] && [[ $path != /etc/* ]]; then # what is in /etc belongs to packages
				mkdir -p "$root$path"
				mount --bind -o ro "$path" "$root$path"
			fi
		done
	cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
	mkdir -p "$root$OWN_CERTIFICATES"
	cp -rL "$OWN_CERTIFICATES/." "$root$OWN_CERTIFICATES" 2>/dev/null || true
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
