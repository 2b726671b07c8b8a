/*-------------------------------------------------------------------------
 *
 * process.h
 *	  Start the processes of a database, and notice those that never came
 *
 * IDENTIFICATION
 *	  src/process.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_PROCESS_H
#define KAPPA_PROCESS_H

#include "shmem.h"

/*
 * Start a worker, or a process that replays the log for a version (fill.h).
 * False if there is no slot for it.  topic is for its name.
 */
extern bool kappa_process_start_worker(const char *topic, bool catchup, KappaProcessId *id);
extern bool kappa_process_start_filler(const char *topic, Oid view, int32 version);

/* Of those that were started from here, how many replay for a version. */
extern int kappa_process_count_fillers(Oid view, int32 version);

/*
 * Free the slots of workers whose process never came.  Those that came free
 * their slots themselves.  Returns true if one has failed to start.
 */
extern bool kappa_process_collect(void);

#endif /* KAPPA_PROCESS_H */
