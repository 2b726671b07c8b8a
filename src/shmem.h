/*-------------------------------------------------------------------------
 *
 * shmem.h
 *	  Shared memory: who serves which view, counters, and wake-ups
 *
 * Two arrays.  A view slot stands for one version of one view that should
 * run; the supervisor of its database makes and frees it.  A worker slot
 * stands for one worker process.  "owner" is the worker that may apply
 * messages to the view; "wanted" is the worker that the supervisor would like
 * to be the owner.  A worker gives a view up between two batches when it is
 * not wanted any more, and takes a wanted view only while it has no owner, so
 * that a view never has two.  (Were that ever to fail, the second one's
 * transaction would fail too: kappa_catalog_store_position.)
 *
 * All fields are protected by one LWLock, tranche "kappa", but the atomic
 * counters.  Only the shmem*.c files take it.
 *
 * IDENTIFICATION
 *	  src/shmem.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_SHMEM_H
#define KAPPA_SHMEM_H

#include "datatype/timestamp.h"
#include "port/atomics.h"

#define KAPPA_REASON_LEN 512

/* How a view that should run is doing. */
typedef enum KappaRunState
{
	KAPPA_RUN_WAITING,     /* no worker yet: see reason, and retry_at if put off */
	KAPPA_RUN_CATCHING_UP, /* behind the end of the log */
	KAPPA_RUN_RUNNING,     /* at the end of the log */
	KAPPA_RUN_RETRYING,    /* something fails: see reason */
} KappaRunState;

/* Counters since the server started; read without a lock. */
typedef struct KappaCounters
{
	pg_atomic_uint64 messages; /* applied */
	pg_atomic_uint64 bytes;    /* keys and values of these */
	pg_atomic_uint64 rows;     /* merged */
	pg_atomic_uint64 batches;  /* transactions */
	pg_atomic_uint64 fetch_us; /* waiting for, and taking, messages */
	pg_atomic_uint64 apply_us;
	pg_atomic_uint64 commit_us;
	pg_atomic_uint64 restarts; /* failures that took the view out of its worker */
	pg_atomic_uint64 letters;  /* messages set aside */
} KappaCounters;

/* A copy of a view slot, for readers. */
typedef struct KappaViewStatus
{
	Oid dbid;
	Oid view;
	int32 version;
	KappaRunState state;
	TimestampTz since;    /* when it entered the state */
	TimestampTz retry_at; /* 0 unless waiting for it */
	int failures;         /* in a row */
	int sqlstate;         /* of the last failure; 0 for none */
	char reason[KAPPA_REASON_LEN];
	pid_t worker_pid; /* 0 without a worker */
	int nprocesses;   /* at work on it: a worker, or those that replay the log */
	uint64 messages, bytes, rows, batches, fetch_us, apply_us, commit_us, restarts, letters;
} KappaViewStatus;

/* Where a version stands in the log, as published by its worker. */
typedef struct KappaLogStatus
{
	int npartitions;
	int64 *end_offset;      /* as last seen */
	int64 *last_message_at; /* ms since 1970 of the last message applied; -1 unknown */
} KappaLogStatus;

extern void kappa_shmem_init(void);      /* from _PG_init: hooks for request and startup */
extern bool kappa_shmem_available(void); /* preloaded? */

/* --- for SQL functions of any backend --- */

/*
 * Wake the processes of this database (and the launcher, when there are none)
 * after this transaction commits.
 */
extern void kappa_shmem_wake_at_commit(void);

/* False if no slot: the view is not running. */
extern bool kappa_shmem_get_view(Oid view, int32 version, KappaViewStatus *status);

/* Copy of all view slots of this database; palloc'd. */
extern int kappa_shmem_get_views(KappaViewStatus **statuses);

/* Whether one more view could run (kappa.max_views). */
extern bool kappa_shmem_has_view_slot(void);

/*
 * What the view's worker knows about the log; NULL if it has no worker that
 * has asked.  palloc'd.
 */
extern KappaLogStatus *kappa_shmem_get_log(Oid view, int32 version);

/*
 * Wait until the view has applied all that can be read from its log now.  The
 * worker takes the end offsets when it sees the request.  Returns false at the
 * timeout (ms).  Interruptible.  A view without a worker is waited for.
 */
extern bool kappa_shmem_wait_applied(Oid view, int64 timeout_ms);

/*
 * Sleep until anything about views or rebuilds of this database has changed
 * (states, phases, ends of rebuilds), or the timeout.  A condition variable:
 * call prepare, test the condition, then sleep, in a loop; end with cancel.
 */
extern void kappa_shmem_change_prepare(void);
extern bool kappa_shmem_change_sleep(int64 timeout_ms); /* true: timed out */
extern void kappa_shmem_change_cancel(void);
extern void kappa_shmem_announce_change(void);

/*
 * Ask all of kappa's processes to leave a database, and wait until they have
 * (DROP DATABASE, RENAME, CREATE DATABASE ... TEMPLATE).  They stay away for a
 * minute, or until the end of a transaction that calls kappa_shmem_readmit.
 */
extern void kappa_shmem_evict(Oid dbid);
extern void kappa_shmem_readmit(Oid dbid);

/* --- for launcher.c, supervisor.c and worker.c --- */

/* What has worked for so long, in ms, has recovered: delays begin anew. */
#define KAPPA_HEALTHY_MS 60000

/*
 * A worker is known by its slot and the slot's generation, which tells it from
 * an earlier process of the same slot.  Passed in bgw_extra.
 */
typedef struct KappaProcessId
{
	Oid dbid;
	int slot;
	uint32 generation;
} KappaProcessId;

/* How far the supervisor of a database has come, as the launcher sees it. */
typedef enum KappaDatabaseState
{
	KAPPA_DATABASE_STARTING, /* registered, has not looked yet */
	KAPPA_DATABASE_SERVING,
	KAPPA_DATABASE_ABSENT, /* gone: the extension is not there */
	KAPPA_DATABASE_EXITED, /* gone for another reason */
} KappaDatabaseState;

typedef struct KappaDatabaseStatus
{
	KappaProcessId id;
	KappaDatabaseState state;
	pid_t pid;   /* 0: not attached */
	bool reload; /* something has changed in the catalog since it looked */
	TimestampTz started_at;
} KappaDatabaseStatus;

/* A copy of a worker slot, for the supervisor. */
typedef struct KappaWorkerStatus
{
	KappaProcessId id;
	pid_t pid;    /* 0: registered, but not attached yet */
	bool catchup; /* serves views that are behind */
	bool filler;  /* replays the log for one of them, and serves none */
	bool stop;
	TimestampTz started_at;
} KappaWorkerStatus;

/* A copy of what decides about a view, for the supervisor and the worker. */
typedef struct KappaViewPlace
{
	int slot;
	Oid view;
	int32 version;
	int owner;  /* worker slot, or -1 */
	int wanted; /* worker slot, or -1 */
	KappaRunState state;
	bool caught_up; /* its owner says that it may join the others */
	bool failing;   /* has not recovered since its last failure */
	TimestampTz retry_at;
} KappaViewPlace;

/* A waiting backend, see kappa_shmem_wait_applied(). */
typedef struct KappaWaitRequest
{
	int procno;
	uint32 serial;
	Oid view;
} KappaWaitRequest;

/*
 * The delay in ms before the next attempt after so many failures in a row: one
 * second, doubling, at most max_delay.
 */
extern int64 kappa_shmem_retry_delay(int failures, int max_delay);

/* Launcher. */
extern void kappa_shmem_attach_launcher(void);
extern bool kappa_shmem_database_reserve(Oid dbid, KappaProcessId *id);
extern void kappa_shmem_database_free(const KappaProcessId *id);
extern int kappa_shmem_get_databases(KappaDatabaseStatus **statuses);
extern bool kappa_shmem_is_evicted(Oid dbid, TimestampTz *until);

/*
 * Databases in which something was committed that the launcher should look at;
 * forgets them.  *all is set if there were too many to remember.
 */
extern int kappa_shmem_take_woken(Oid *dbids, int max, bool *all);

/*
 * Supervisor and worker: take the slot.  False if it is not for this process
 * any more, or the database is to be left alone: exit.  Registers the exit
 * callback, so call it before the connection is made: the slot is then freed
 * after the process has left the list of backends.
 */
extern bool kappa_shmem_attach_supervisor(const KappaProcessId *id);
extern bool kappa_shmem_attach_worker(const KappaProcessId *id);

/* True once after something has changed for this process; see also below. */
extern bool kappa_shmem_take_attention(void);
extern bool kappa_shmem_stopping(void); /* asked to leave */

/* Supervisor. */
extern void kappa_shmem_database_report(KappaDatabaseState state);
extern bool kappa_shmem_take_reload(void);            /* the catalog has changed */
extern void kappa_shmem_wake_supervisor(bool reload); /* of this database */
extern bool kappa_shmem_worker_reserve(bool catchup, KappaProcessId *id);
extern bool kappa_shmem_filler_reserve(Oid view, int32 version, KappaProcessId *id);
extern void kappa_shmem_worker_free(const KappaProcessId *id);
extern void kappa_shmem_worker_set_catchup(const KappaProcessId *id, bool catchup);
extern void kappa_shmem_worker_stop(const KappaProcessId *id); /* between two batches */
extern void kappa_shmem_stop_workers(void);
extern int kappa_shmem_get_workers(KappaWorkerStatus **statuses);

/* View slots of this database; for supervisor and worker. */
extern int kappa_shmem_get_places(KappaViewPlace **places);

/* -1: no room; the supervisor is told to reload when there is some again. */
extern int kappa_shmem_view_add(Oid view, int32 version);

/* False if a worker must give it up first; call again then. */
extern bool kappa_shmem_view_remove(int slot);

typedef struct KappaAssignment
{
	int slot; /* of a view */
	KappaProcessId worker;
} KappaAssignment;

/*
 * Choose workers for views; no worker sees only some of it.  Nothing is done
 * where the worker has gone since it was looked at, for a view that waited for
 * one that is gone would wait for ever, nor where the view has failed and left
 * its worker since.  Either has woken the supervisor.
 */
extern void kappa_shmem_assign_views(const KappaAssignment *assignments, int n);

/* No worker for now; shown as waiting, for this reason. */
extern void kappa_shmem_view_postpone(int slot, const char *reason, TimestampTz retry_at);

/* Worker: take the wanted views that have no owner; the result is all that it owns now. */
extern int kappa_shmem_take_views(KappaViewPlace **places);
extern void kappa_shmem_view_release(int slot);

/*
 * Note a failure, after which the view leaves its worker until the supervisor
 * gives it another; or trouble for which it waits where it is, until retry_at
 * (0: as after a failure).  Both return true if it is the first in a row, for which
 * kappa.events gets a line.
 */
extern bool kappa_shmem_view_failed(int slot, int sqlstate, const char *reason);
extern bool kappa_shmem_view_suspend(int slot, int sqlstate, const char *reason,
									 TimestampTz retry_at);

/*
 * Count a fault of the view's table, which is not going to heal: how many times
 * in a row it was this one, since the view last worked.
 */
extern int kappa_shmem_view_count_fault(int slot, int sqlstate, const char *message);

/*
 * Note that it works again.  Returns the event to record, static text, if a
 * failure had been noted; else NULL.
 */
extern const char *kappa_shmem_view_recovered(int slot);

/* A state other than RETRYING; no effect if it is in it. */
extern void kappa_shmem_view_set_state(int slot, KappaRunState state);
extern void kappa_shmem_view_caught_up(int slot);
extern void kappa_shmem_view_publish(int slot, int npartitions,
									 const int64 *end_offset, const int64 *last_message_at);
extern KappaCounters *kappa_shmem_view_counters(int slot);

/* Why this process is about to exit, for the views that it leaves behind. */
extern void kappa_shmem_set_exit_reason(int sqlstate, const char *reason);

/* Worker: unanswered requests for views that it owns; and the answer. */
extern int kappa_shmem_get_requests(KappaWaitRequest **requests);
extern void kappa_shmem_answer(const KappaWaitRequest *request);

#endif /* KAPPA_SHMEM_H */
