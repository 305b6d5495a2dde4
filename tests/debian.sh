# Functions for scripts that make a fresh Debian 12: where its packages come from, and how programs there fetch what they need.
# apt and pip are set up as they are here.

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
