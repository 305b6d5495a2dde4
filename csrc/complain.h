/* What goes wrong before the log is known goes to syslog, as the log does by default. */

#pragma once

/* Sends a line, written as by printf(3). */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

/* The same for what goes wrong because of what else is in the process, with the advice to load the module in another. */
void complain_and_advise(const char *what);
