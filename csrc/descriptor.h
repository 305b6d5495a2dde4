/* A descriptor of ours in a process that belongs to the host, who may close it and use its number for something else. */

#pragma once

#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    int fd; /* -1: none */
    dev_t device;
    ino_t inode;
} descriptor;

/* Keeps what was just opened. 0, or the errno with which it was not. */
int hold(descriptor *d, int fd);

/* Whether the number still stands for what was opened. */
bool is_ours(const descriptor *d);

/* Closes what is still ours, and forgets it. */
void let_go(descriptor *d);
