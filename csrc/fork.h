/* What a fork does with the GIL and with a start that is under way. */

#pragma once

/* Registers the handlers: once a process. */
void watch_forks(void);
