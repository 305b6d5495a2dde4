# What the parts share: checks, figures, and the TPM commands that the kernel sends.

MODULE=/usr/local/lib/pkcs11/p11tpm.so
PIN=123456 # host.h
PIN_FILE=/etc/p11tpm/pin
SOON=150 # seconds: an emulator on a busy machine
export LC_ALL=C.UTF-8

# check WORDS COMMAND...: the command succeeds
check() {
	local words=$1 said
	shift
	if said=$("$@" 2>&1 </dev/null); then
		echo "ok - $words"
	else
		echo "not ok - $words: ended with $?"
		sed 's/^/    /' <<<"$said"
	fi
}

# found WORDS PATTERN TEXT: the pattern of grep -E finds something in the text
found() {
	if grep -qE -- "$2" <<<"$3"; then
		echo "ok - $1"
	else
		echo "not ok - $1: no '$2' in"
		sed 's/^/    /' <<<"$3"
	fi
}

# says WORDS PATTERN COMMAND...: the command, whether it succeeds or not, says something that the pattern finds
says() {
	local words=$1 pattern=$2 said
	shift 2
	said=$("$@" 2>&1 </dev/null) || true
	found "$words" "$pattern" "$said"
}

# refused WORDS PATTERN COMMAND...: the command fails and says why
refused() {
	local words=$1 pattern=$2 said
	shift 2
	if said=$("$@" 2>&1 </dev/null); then
		echo "not ok - $words: succeeded, and said"
		sed 's/^/    /' <<<"$said"
	else
		found "$words" "$pattern" "$said"
	fi
}

# equal WORDS WANTED FOUND
equal() {
	if [ "$2" = "$3" ]; then echo "ok - $1"; else echo "not ok - $1: $3, not $2"; fi
}

# figure WORDS VALUE: something that was measured
figure() {
	echo "figure - $1: $2"
}

# until_true COMMAND...: wait for a condition, and no longer than SOON seconds
until_true() {
	local end=$((SECONDS + SOON))
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}

# as USER COMMAND...: in a login of that user, which has its groups
as() {
	local user=$1
	shift
	setpriv --reuid "$user" --regid "$user" --init-groups --reset-env --inh-caps=-all -- \
		env --chdir="$(getent passwd "$user" | cut -d : -f 6)" "$@"
}

# restart: have the machine started anew; the part is called once more, and `restarted` is true
restart() {
	: >/var/lib/inside/restart
	: >/var/lib/inside/restarted
	exit 0
}

restarted() {
	[ -e /var/lib/inside/restarted ] && rm /var/lib/inside/restarted
}

# has_session: somebody has a session that the kernel has saved
has_session() {
	[ -n "$(tpm2_getcap -T device:/dev/tpm0 handles-saved-session)" ]
}

# token_of_root: root's token "test", whose PIN is in PIN_FILE
token_of_root() {
	[ -e /var/lib/p11tpm/p11tpm.db ] && return
	mkdir -p /etc/p11tpm
	(umask 077 && printf %s "$PIN" >"$PIN_FILE")
	p11tpm token create --label test --pin-file "$PIN_FILE" >/dev/null # its URI
}

TRACE=/sys/kernel/tracing
# trace COMMAND...: note each command that the kernel sends to the TPM meanwhile, its own too, and what `mark` says
trace() {
	mountpoint -q $TRACE || mount -t tracefs tracefs $TRACE
	if [ ! -d $TRACE/events/kprobes/tpm ]; then
		echo 'p:tpm tpm_transmit code=+6(%si):x32' >$TRACE/kprobe_events
		echo 1 >$TRACE/events/kprobes/tpm/enable
		echo 16384 >$TRACE/buffer_size_kb
	fi
	echo >$TRACE/trace
	"$@"
}

# sent [MARK...]: the number of commands since these marks of the trace, each up to the next one; of all of them without any
sent() {
	commands "$@" | wc -l
}

# commands [MARK...]: the codes of these commands, one a line
commands() {
	awk -v marks="$*" '
		BEGIN { every = marks == ""; split(marks, list, " "); for (i in list) wanted[list[i]] = 1 }
		/tracing_mark_write: / { now = $NF }
		/ tpm: .*code=0x/ && (every || now in wanted) { sub(/.*code=0x/, ""); print substr($0, 3, 2) substr($0, 1, 2) }
	' $TRACE/trace
}
