/*-------------------------------------------------------------------------
 *
 * kappa.h
 *	  Settings and names that every module of kappa shares
 *
 * Only the configuration parameters and a few reserved names live here; each
 * module declares its own functions in the header beside it.
 *
 * IDENTIFICATION
 *	  src/kappa.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_H
#define KAPPA_H

#if PG_VERSION_NUM < 150000
#error "kappa needs PostgreSQL 15 or later"
#endif

/* Schemas of the extension: the interface, and the state of views. */
#define KAPPA_SCHEMA "kappa"
#define KAPPA_STATE_SCHEMA "kappa_state"

/*
 * Reserved table aliases.  A scan of a foreign table under one of these names
 * does not read the log up to its end, but what this process has bound to the
 * foreign table: a batch (batch.h), or offset bounds (fdw_scan.h), for a check or
 * for a replay, or what comes after them.  The mode is part of the statement so
 * that it survives deparsing and replanning, and so that a function that happens
 * to read the same foreign table is not affected.
 */
#define KAPPA_BATCH_ALIAS "kappa batch"
#define KAPPA_BOUNDED_ALIAS "kappa log"
#define KAPPA_STRETCH_ALIAS "kappa stretch"
#define KAPPA_LATER_ALIAS "kappa later"

/*
 * SQLSTATE of errors after which a view must not be tried again: the log, the
 * foreign table or the server is no longer what the view was built with.
 * Worker: set the view's state to stopped, with the error's message, detail and
 * hint as reason.
 */
#define ERRCODE_KAPPA_STOP MAKE_SQLSTATE('K', 'A', '0', '0', '1')

/* Configuration parameters, defined in kappa.c; units as in the comment. */
extern int kappa_max_workers;           /* workers per database */
extern int kappa_rebuild_workers;       /* processes that replay, per database */
extern int kappa_replay_min;            /* messages that are worth it; -1: none are */
extern int kappa_replay_rate;           /* messages a second, of each; 0: no limit */
extern int kappa_max_views;             /* views and rebuilds per cluster */
extern int kappa_batch_rows;            /* messages */
extern int kappa_batch_bytes;           /* kB */
extern int kappa_batch_interval;        /* ms */
extern int kappa_fetch_buffer;          /* kB, prefetched by one consumer */
extern int kappa_connect_timeout;       /* ms */
extern int kappa_metadata_interval;     /* ms */
extern int kappa_retry_max_delay;       /* ms */
extern int kappa_keep_previous;         /* s; 0: not at all, -1: until the next rebuild */
extern int kappa_dead_letter_limit;     /* waiting for each version; -1: no limit */
extern int kappa_dead_letter_percent;   /* of the last messages; 100: no limit */
extern int kappa_dead_letter_max_bytes; /* kB; longer ones are kept by their place */

#endif /* KAPPA_H */
