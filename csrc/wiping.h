/* Memory that Python frees, and the stack that it has used, are overwritten. */

#pragma once

/* To be called before there is anything of Python but its settings: it keeps the sizes of blocks. */
void prepare_wiping(void);

/* From now on, what is freed is wiped. */
void wipe_what_is_freed(void);

/* Overwrites what a call that is over has left below its caller's frame, and in registers, whose contents whoever comes next may
 * save in memory. */
void wipe_stack(void);
