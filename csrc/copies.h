/* Copies of this module in one process: what makes them start one after the other. */

#pragma once

#include <Python.h>
#include <stdbool.h>

/* Lets one copy at a time start Python, to which modules are lent meanwhile. Nothing but libpython is common to the copies
 * then. False: another copy does not get done. */
bool take_turn(const struct _frozen *lent);

/* Lets the next copy start Python; nothing is lent any more. */
void end_turn(void);

/* Keeps other copies from loading their code before this one, which has started Python, says where that is to be found. */
bool begin_preparing(void);

/* Lets other copies load their code after begin_preparing() gave true; with the GIL. */
void end_preparing(void);

/* Lets one copy at a time load its code, and only code that is the same. */
bool begin_loading(void);

/* Lets the next copy load its code after begin_loading() gave true, and says where this one's is. */
void end_loading(void);
