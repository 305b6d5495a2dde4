# Everything here installs what it needs first; all paths are relative, so that the checkout may lie anywhere.
#   make demo        a login with ssh and ssh-agent by keys in a software TPM
#   make newcomer    all of that on a Debian that is made for it, as somebody does who has just read the README (root)
#   make vm          a virtual machine: a real kernel with its resource manager, and systemd as process 1 (root); PART=ssh one part,
#                    make vm-all all of them, make vm-shell a shell there
#   make unit        the quick tests; no packages but the build's, swtpm and tpm2-tools
#   make test        lint and all tests
#   make fuzz        a million calls of all functions, with sense and nonsense: CALLS=... or SECONDS=..., SEED=...
#   make asan        the tests of the C ABI under AddressSanitizer and UndefinedBehaviorSanitizer
#   make bench       speed beside tpm2-pkcs11 and SoftHSM; fails if a budget is missed
#   make clients     every program that tests/clients drives, with p11tpm and with tpm2-pkcs11, as a table: CLIENTS.md
#   make build       .venv/bin/p11tpm and the module (its path: .venv/bin/p11tpm module)
#   make install     a self-contained copy below PREFIX (root);  make uninstall  removes it
#   make lint clean

SHELL := /bin/sh
# an empty environment will do, and so will a user's without the sbin directories
export PATH := $(if $(PATH),$(PATH):)/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PREFIX ?= /usr/local
# p11-kit's directory for what the administrator adds (pkcs11.conf(5)); another PREFIX keeps to itself
P11_KIT_MODULES ?= $(if $(filter /usr /usr/local,$(PREFIX)),/etc/pkcs11/modules,$(PREFIX)/etc/pkcs11/modules)

# systemd looks there if PREFIX is /usr/local or /usr
UNITS := $(PREFIX)/lib/systemd/system

# The module embeds Python: 3.11 or later, with a shared libpython (Debian's comes from the packages below).
SUITABLE = import sys, sysconfig; sys.exit(sys.version_info < (3, 11) or \
	not (sys.base_prefix == "/usr" or sysconfig.get_config_var("Py_ENABLE_SHARED")))
FIND_PYTHON = for python in $(1) /usr/bin/python3; do \
	"$$python" -c '$(SUITABLE)' 2>/dev/null && break; done; echo "$$python"
ifeq ($(origin PYTHON), undefined)
PYTHON = $(shell $(call FIND_PYTHON,python3 python3.14 python3.13 python3.12 python3.11))
endif
# an installed module should not depend on a Python in somebody's home directory
ifeq ($(origin INSTALL_PYTHON), undefined)
INSTALL_PYTHON = $(shell $(call FIND_PYTHON,/usr/bin/python3 "$(PYTHON)"))
endif

DEBIAN_BUILD := gcc libc6-dev pkg-config libp11-kit-dev libtss2-dev libssl-dev
DEBIAN_DEMO := swtpm openssh-server openssh-client
# Node.js that is not Debian's brings npm along, and cannot be together with Debian's
NODE := $(if $(shell command -v npm 2>&1),,nodejs npm)
DEBIAN_UNIT := swtpm tpm2-tools
DEBIAN_TEST := $(DEBIAN_DEMO) tpm2-tools tpm2-abrmd libtss2-tcti-tabrmd0 dbus-daemon dbus-bin softhsm2 opensc libtpm2-pkcs11-1 \
	openssh-sftp-server git libengine-pkcs11-openssl openssl curl gnutls-bin libnss3-tools openjdk-17-jdk-headless \
	p11-kit p11-kit-modules nginx-light hostapd wpasupplicant eapoltest iproute2 systemd libseccomp2 \
	openvpn strongswan-pki strongswan-swanctl charon-systemd libstrongswan-standard-plugins \
	libstrongswan-extra-plugins libcharon-extra-plugins cryptsetup-bin osslsigncode gnupg-pkcs11-scd gpg gpg-agent gpgsm \
	golang-go golang-github-smallstep-certificates-dev dehydrated pdns-server pdns-backend-sqlite3 sqlite3 bind9-dnsutils \
	golang-github-miekg-pkcs11-dev golang-github-thalesignite-crypto11-dev g++ $(NODE)
DEBIAN_NEWCOMER := mmdebstrap git
DEBIAN_VM := mmdebstrap git qemu-system-x86 swtpm e2fsprogs ovmf mtools binutils openssl sbsigntool systemd
DEBIAN_BENCH := swtpm tpm2-tools libtpm2-pkcs11-1 libsofthsm2

# package:unit
SERVICES := openssh-server:ssh tpm2-abrmd:tpm2-abrmd nginx-light:nginx hostapd:hostapd wpasupplicant:wpa_supplicant \
	openvpn:openvpn charon-systemd:strongswan pdns-server:pdns

SUDO := $(if $(filter-out 0,$(shell id -u 2>&1)),sudo)
# A copied checkout gets an environment of its own: one that was made elsewhere still points there.
HERE := $(shell pwd -P | cksum | cut -d ' ' -f 1)
VENV := .venv/made-$(HERE)
TOOLS := .venv/tools-$(HERE)
BUILT := .venv/built-$(HERE)
PIP_INSTALL := -m pip install -qq --no-input --disable-pip-version-check

# $(call debian,PACKAGES): install what is missing. A service that comes with a package is not left running.
define debian
	@command -v dpkg-query >/dev/null || { echo "Not Debian: make sure you have the likes of $(strip $(1))"; exit 0; }; \
	here=$$(dpkg-query -W -f='$${db:Status-Status} $${Package} ' $(1) 2>/dev/null); \
	missing=; for package in $(1); do \
		case " $$here" in *" installed $$package "*) ;; *) missing="$$missing $$package";; esac; done; \
	[ -n "$$missing" ] || exit 0; \
	echo "Installing Debian packages:$$missing"; \
	told=$$($(SUDO) apt-get update -qq 2>&1 && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
			-o Dpkg::Use-Pty=0 $$missing 2>&1) || { echo "$$told"; exit 1; }; \
	[ -d /run/systemd/system ] || exit 0; \
	for service in $(SERVICES); do case "$$missing " in *" $${service%:*} "*) \
		$(SUDO) systemctl disable --quiet --now "$${service#*:}";; esac; done
endef

# $(call python_debian,PYTHON): the headers and venv of a Python that Debian packaged
define python_debian
$(shell "$(1)" -c 'import sys; v = "python%d.%d-" % sys.version_info[:2]; \
	print(v + "dev", v + "venv") if sys.base_prefix == "/usr" else None' 2>/dev/null || echo python3-dev python3-venv)
endef

.PHONY: build demo newcomer vm vm-all vm-shell unit test fuzz asan clients bench lint install uninstall clean
.PHONY: packages-build packages-demo packages-newcomer packages-vm packages-unit packages-test packages-bench
.NOTPARALLEL:
.DELETE_ON_ERROR:

build: $(BUILT)

demo: packages-demo $(BUILT)
	@.venv/bin/python tests/demo.py

newcomer: packages-newcomer
	@$(SUDO) tests/newcomer/machine.sh

vm: packages-vm $(TOOLS)
	@$(SUDO) env PYTHONPATH=tests .venv/bin/python -B tests/vm/vm.py $(PART)

vm-all vm-shell: packages-vm $(TOOLS)
	@$(SUDO) env PYTHONPATH=tests .venv/bin/python -B tests/vm/vm.py $(@:vm-%=%)

# A test waits for its TPM most of the time: so there is one process more than there are processors.
PYTEST := .venv/bin/python -m pytest --numprocesses $$(($$(nproc) + 1)) --dist loadfile

unit: packages-unit $(TOOLS) $(BUILT)
	@$(PYTEST) tests/unit -m "not slow and not packages"

test: packages-test lint
	@$(PYTEST)

fuzz: packages-test $(TOOLS) $(BUILT)
	@CALLS="$(CALLS)" SECONDS="$(SECONDS)" SEED="$(SEED)" ROUND="$(ROUND)" .venv/bin/python tests/fuzz/storm.py

asan: packages-test $(TOOLS) $(BUILT)
	@.venv/bin/python tests/host/sanitized.py --numprocesses $$(($$(nproc) + 1)) --dist loadfile tests/host tests/api

clients: packages-test $(TOOLS) $(BUILT)
	@$(PYTEST) tests/clients --peer --table CLIENTS.md

bench: packages-bench $(BUILT)
	@PYTHONPATH=tests .venv/bin/python tests/bench/bench.py

lint: $(BUILT) $(TOOLS)
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/python csrc/build.py --check

packages-build:
	$(call debian,$(DEBIAN_BUILD) $(if $(wildcard $(VENV)),,$(call python_debian,$(PYTHON))))

packages-demo:
	$(call debian,$(DEBIAN_DEMO))

packages-newcomer:
	$(call debian,$(DEBIAN_NEWCOMER))

packages-vm:
	$(call debian,$(DEBIAN_VM))

packages-unit:
	$(call debian,$(DEBIAN_UNIT))

packages-test:
	$(call debian,$(DEBIAN_TEST))

packages-bench:
	$(call debian,$(DEBIAN_BENCH))

$(VENV): | packages-build
	@"$(PYTHON)" -c '$(SUITABLE)' || { echo "No Python 3.11 or later with a shared libpython; name one: PYTHON=..."; exit 1; }
	@echo "Making .venv with $(PYTHON)"
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv
	@.venv/bin/python $(PIP_INSTALL) --editable .
	@touch $@

$(TOOLS): pyproject.toml $(VENV)
	@echo "Installing the tools of the tests"
	@.venv/bin/python $(PIP_INSTALL) --editable '.[test]'
	@touch $@

# with the byte code of the package, which a start reads from one file
$(BUILT): $(wildcard csrc/*.* p11tpm/*.py p11tpm/*/*.py) $(VENV) | packages-build
	@echo "Building the module"
	@.venv/bin/python csrc/build.py
	@touch $@

# The copy is made from a copy of the sources, so that root leaves nothing in the checkout.
install:
	@umask 022; mkdir -p "$(PREFIX)/lib" 2>/dev/null; \
	[ -w "$(PREFIX)/lib" ] || { echo "$(PREFIX)/lib is not yours to write: sudo make install"; exit 1; }
	$(call debian,$(DEBIAN_BUILD) $(call python_debian,$(INSTALL_PYTHON)))
	@echo "Installing below $(PREFIX) with $(INSTALL_PYTHON)"
	@set -eu; umask 022; \
	rm -rf "$(PREFIX)/lib/p11tpm"; \
	mkdir -p "$(PREFIX)/lib/pkcs11" "$(PREFIX)/bin" "$(UNITS)" "$(P11_KIT_MODULES)"; \
	"$(INSTALL_PYTHON)" -m venv "$(PREFIX)/lib/p11tpm"; \
	sources=$$(mktemp -d); trap 'rm -rf "$$sources"' EXIT; \
	for unit in systemd/*.service; do \
		sed 's|/usr/local/lib/pkcs11/|$(PREFIX)/lib/pkcs11/|' "$$unit" > "$(UNITS)/$${unit#*/}"; done; \
	cp -R pyproject.toml README.md LICENSE p11tpm csrc "$$sources"; \
	find "$$sources" '(' -name '*.so' -o -name '*.pyc' ')' -delete; \
	"$(PREFIX)/lib/p11tpm/bin/python" $(PIP_INSTALL) "$$sources"; \
	cd "$$sources"; \
	"$(PREFIX)/lib/p11tpm/bin/python" -B csrc/build.py --module "$(PREFIX)/lib/pkcs11/p11tpm.so"; \
	ln -sf "$(PREFIX)/lib/p11tpm/bin/p11tpm" "$(PREFIX)/bin/p11tpm"; \
	echo "module: $(PREFIX)/lib/pkcs11/p11tpm.so" > "$(P11_KIT_MODULES)/p11tpm.module"
	@echo "Installed: $(PREFIX)/bin/p11tpm, $(PREFIX)/lib/pkcs11/p11tpm.so"

uninstall:
	@rm -rf "$(PREFIX)/lib/p11tpm"
	@rm -f "$(PREFIX)/lib/pkcs11/p11tpm.so" "$(PREFIX)/bin/p11tpm" "$(P11_KIT_MODULES)/p11tpm.module"
	@cd systemd && for unit in *.service; do rm -f "$(UNITS)/$$unit"; done
	@rmdir "$(UNITS)" "$(PREFIX)/lib/systemd" "$(PREFIX)/lib/pkcs11" "$(P11_KIT_MODULES)" "$$(dirname "$(P11_KIT_MODULES)")" 2>/dev/null || true
	@echo "Removed from $(PREFIX); tokens, keys and settings are still where they were"

clean:
	@[ ! -e .vm ] || $(SUDO) rm -rf .vm
	@rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage p11tpm/*.so p11tpm/bundle.bin
	@find p11tpm csrc tests -name __pycache__ -prune -exec rm -rf {} +
