/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The process that keeps a supervisor in each database that uses kappa
 *
 * IDENTIFICATION
 *	  src/launcher.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_LAUNCHER_H
#define KAPPA_LAUNCHER_H

#include "datatype/timestamp.h"

/* From _PG_init, in the postmaster. */
extern void kappa_launcher_register(void);

/* Entry point of the process. */
extern PGDLLEXPORT void kappa_launcher_main(Datum arg);

/*
 * Sleep until the latch is set or a moment has come (0: for ever), and do what
 * every process of kappa does when it wakes up: look at interrupts and at the
 * configuration.
 */
extern void kappa_launcher_sleep(TimestampTz until, uint32 wait_event);

#endif /* KAPPA_LAUNCHER_H */
