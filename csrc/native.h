/*
 * p11tpm._native: what Python cannot do for a guest in somebody else's process.
 *
 * A connection carries TPM commands to a device, to a socket of swtpm or tpm2-abrmd, or to whatever libtss2-tctildr can load.
 * Devices and sockets are opened here and not by that library, because it
 *  - writes its errors to the host's stderr and can be silenced by environment variables only, which belong to the host;
 *  - reads TSS2_LOGFILE by getenv(), and creates that file, even in a setuid program;
 *  - hides errno, so that "not in group tss" and "no TPM" look the same;
 *  - opens descriptors that a program started meanwhile by another thread inherits.
 * What the library still has to do (mssim, cmd, ...) is done by a thread of its own (tctildr.c), and refused to setuid programs.
 */

#pragma once

#include "connection.h"
#include "ecdh.h"
#include "hash.h"
#include "secret.h"
#include "secure.h"
#include "syslog_message.h"
