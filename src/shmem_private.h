/*-------------------------------------------------------------------------
 *
 * shmem_private.h
 *	  What lies in shared memory
 *
 * Shared by the shmem*.c files, and seen by no others.  What the fields mean to
 * the rest of kappa is said in shmem.h.
 *
 * IDENTIFICATION
 *	  src/shmem_private.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_SHMEM_PRIVATE_H
#define KAPPA_SHMEM_PRIVATE_H

#include <sys/types.h>

#include "shmem.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"

#define MAX_EVICTIONS 32
#define MAX_WOKEN 32

/*
 * A supervisor or a worker.  The slot is reserved by whoever starts the
 * process (launcher, supervisor), attached to by the process itself, and freed
 * when that exits; a supervisor's by the launcher, who wants to know how it
 * ended.
 */
typedef struct KappaProcess
{
	Oid dbid;                 /* InvalidOid if the slot is free */
	uint32 generation;        /* changes each time the slot is reserved */
	pid_t pid;                /* 0 until attached */
	Latch *latch;             /* NULL likewise; in shared memory */
	bool stop;                /* asked to exit */
	bool catchup;             /* worker: serves views that are behind */
	Oid view;                 /* worker: replays the log for this view (fill.h), or InvalidOid */
	int32 version;            /* of it */
	bool reload;              /* supervisor: the catalog has changed */
	KappaDatabaseState state; /* supervisor */
	TimestampTz started_at;   /* when the slot was reserved */
	pg_atomic_uint32 attention;
} KappaProcess;

/* What a view has not recovered from yet. */
typedef enum KappaTrouble
{
	KAPPA_TROUBLE_NONE,
	KAPPA_TROUBLE_RESTART, /* its worker went away */
	KAPPA_TROUBLE_FAILURE, /* an error of its own, noted in kappa.events */
} KappaTrouble;

/* One version of one view that should run; see shmem.h. */
typedef struct KappaViewSlot
{
	Oid dbid; /* InvalidOid if the slot is free */
	Oid view;
	int32 version;
	int owner;
	int wanted;
	KappaRunState state;
	TimestampTz since;
	TimestampTz retry_at;
	TimestampTz healthy_since; /* last recovery; 0 while it fails */
	bool caught_up;
	KappaTrouble trouble;
	int failures;
	uint32 fault; /* hash of the last one of the view's table */
	int nfaults;  /* how often that was in a row */
	int sqlstate;
	char reason[KAPPA_REASON_LEN];
	int npartitions;
	dsa_pointer log; /* end offsets, then timestamps; npartitions each */
	KappaCounters counters;
} KappaViewSlot;

/* A backend in kappa_shmem_wait_applied(); by its number. */
typedef struct KappaRequest
{
	Oid dbid; /* InvalidOid if there is none */
	Oid view;
	uint32 serial;
	bool done;
} KappaRequest;

/* A database that kappa's processes stay out of. */
typedef struct KappaEviction
{
	Oid dbid; /* InvalidOid if the entry is free */
	TimestampTz until;
} KappaEviction;

typedef struct KappaShared
{
	Latch *launcher; /* NULL while there is none */
	Oid woken[MAX_WOKEN];
	int nwoken;
	bool woken_all;         /* more than fit */
	bool view_slot_missing; /* a supervisor has found none since one was freed */
	KappaEviction evictions[MAX_EVICTIONS];
	ConditionVariable changed; /* see kappa_shmem_change_prepare() */
} KappaShared;

/* Where it all is. */
typedef struct KappaSharedMemory
{
	KappaShared *common;       /* NULL if kappa was not preloaded */
	KappaProcess *supervisors; /* max_worker_processes of each */
	KappaProcess *workers;
	KappaViewSlot *views;   /* kappa_max_views */
	KappaRequest *requests; /* MaxBackends */
	void *log_space;        /* in-place part of the log area */
	LWLock *lock;           /* of everything but the counters */
} KappaSharedMemory;

extern KappaSharedMemory kappa_shmem;

/* This process, if it is a supervisor or a worker; else NULL and -1. */
extern KappaProcess *MyKappaProcess;
extern int MyKappaWorkerSlot;

/* shmem.c; but for the first the caller holds the lock */
extern void kappa_shmem_wake(KappaProcess *process);
extern void kappa_shmem_wake_worker(int slot); /* -1: nobody */
extern void kappa_shmem_tell_launcher(Oid dbid);
extern void kappa_shmem_tell_supervisor(Oid dbid, bool reload);

/* shmem_process.c */
extern void kappa_shmem_lift_eviction(Oid dbid);

/* shmem_view.c; for the last the caller holds the lock */
extern void kappa_shmem_init_views(void);
extern void kappa_shmem_free_views(Oid dbid);
extern void kappa_shmem_leave_views(int worker, bool failed, int sqlstate, const char *reason);

#endif /* KAPPA_SHMEM_PRIVATE_H */
