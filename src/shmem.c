/*-------------------------------------------------------------------------
 *
 * shmem.c
 *	  Shared memory: who serves which view, counters, and wake-ups
 *
 * What is kept here can be lost: after a crash of the server the launcher
 * starts from nothing, and finds in the catalogs of each database what should
 * run.  Nothing that decides about the contents of a view is in here.
 *
 * One lock protects it all.  It is held for the time that it takes to look
 * through an array, never across a wait or a call that could throw.  A process
 * is woken through its latch, after a flag of its own was set, so that a
 * worker that was woken by Kafka need not take the lock to see that nobody
 * wants anything of it.
 *
 * IDENTIFICATION
 *	  src/shmem.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/dsa.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "kappa.h"
#include "shmem.h"

#define MAX_EVICTIONS 32
#define MAX_WOKEN 32

/* How long kappa stays out of a database that it was asked to leave. */
#define EVICTION_MS 60000

/* How long to wait for that, and when to be less polite. */
#define EVICTION_WAIT_MS 5000
#define EVICTION_POLITE_MS 100

/* A view that has worked for so long starts again with the shortest delay. */
#define HEALTHY_MS 60000

/* Of the area of log positions; it grows through dynamic shared memory. */
#define LOG_AREA_SIZE (128 * 1024)

/*
 * A supervisor or a worker.  The slot is reserved by whoever starts the
 * process (launcher, supervisor), attached to by the process itself, and freed
 * when that exits; a supervisor's by the launcher, who wants to know how it
 * ended.
 */
typedef struct KappaProcess
{
	Oid dbid;          /* InvalidOid if the slot is free */
	uint32 generation; /* changes each time the slot is reserved */
	pid_t pid;         /* 0 until attached */
	Latch *latch;      /* NULL likewise; in shared memory */
	bool stop;         /* asked to exit */
	bool catchup;      /* worker: serves views that are behind */
	bool reload;       /* supervisor: the catalog has changed */
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

typedef struct KappaShared
{
	Latch *launcher; /* NULL while there is none */
	Oid woken[MAX_WOKEN];
	int nwoken;
	bool woken_all; /* more than fit */
	struct
	{
		Oid dbid; /* InvalidOid if the entry is free */
		TimestampTz until;
	} evictions[MAX_EVICTIONS];
	ConditionVariable changed; /* see kappa_shmem_change_prepare() */
} KappaShared;

static KappaShared *shared = NULL;
static KappaProcess *supervisors; /* max_worker_processes of each */
static KappaProcess *workers;
static KappaViewSlot *views;    /* kappa_max_views */
static KappaRequest *requests;  /* MaxBackends */
static void *log_space;         /* in-place part of the log area */
static LWLock *lock;

/* This process, if it is a supervisor or a worker. */
static KappaProcess *MyProcess = NULL;
static int MyWorkerSlot = -1;
static int exit_sqlstate = 0;
static char exit_reason[KAPPA_REASON_LEN] = "";

static dsa_area *log_area = NULL;
static shmem_request_hook_type next_request_hook = NULL;
static shmem_startup_hook_type next_startup_hook = NULL;

/* ---- making it ---- */

static void
request_space(void)
{
	if (next_request_hook)
		next_request_hook();

	RequestAddinShmemSpace(MAXALIGN(sizeof(KappaShared)));
	RequestAddinShmemSpace(2 * mul_size(max_worker_processes, sizeof(KappaProcess)) + MAXIMUM_ALIGNOF);
	RequestAddinShmemSpace(mul_size(kappa_max_views, sizeof(KappaViewSlot)));
	RequestAddinShmemSpace(mul_size(MaxBackends, sizeof(KappaRequest)));
	RequestAddinShmemSpace(LOG_AREA_SIZE);
	RequestNamedLWLockTranche("kappa", 1);
}

static void
init_process_slots(KappaProcess *slots)
{
	memset(slots, 0, max_worker_processes * sizeof(KappaProcess));
	for (int i = 0; i < max_worker_processes; i++)
		pg_atomic_init_u32(&slots[i].attention, 0);
}

static void
init_counters(KappaCounters *counters)
{
	pg_atomic_init_u64(&counters->messages, 0);
	pg_atomic_init_u64(&counters->bytes, 0);
	pg_atomic_init_u64(&counters->rows, 0);
	pg_atomic_init_u64(&counters->batches, 0);
	pg_atomic_init_u64(&counters->fetch_us, 0);
	pg_atomic_init_u64(&counters->apply_us, 0);
	pg_atomic_init_u64(&counters->commit_us, 0);
	pg_atomic_init_u64(&counters->restarts, 0);
}

/*
 * The area must not reach for dynamic shared memory in the postmaster, which
 * could not give it back; hence the limit while it is made.
 */
static void
init_log_area(int tranche)
{
	dsa_area *area = dsa_create_in_place(log_space, LOG_AREA_SIZE, tranche, NULL);

	dsa_pin(area);
	dsa_set_size_limit(area, -1);
	dsa_detach(area);
}

static void
init_shared(void)
{
	bool found;

	if (next_startup_hook)
		next_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	supervisors = ShmemInitStruct("kappa supervisors",
								  mul_size(max_worker_processes, sizeof(KappaProcess)), &found);
	workers = ShmemInitStruct("kappa workers",
							  mul_size(max_worker_processes, sizeof(KappaProcess)), &found);
	views = ShmemInitStruct("kappa views",
							mul_size(kappa_max_views, sizeof(KappaViewSlot)), &found);
	requests = ShmemInitStruct("kappa requests",
							   mul_size(MaxBackends, sizeof(KappaRequest)), &found);
	log_space = ShmemInitStruct("kappa log positions", LOG_AREA_SIZE, &found);
	shared = ShmemInitStruct("kappa", sizeof(KappaShared), &found);
	lock = &GetNamedLWLockTranche("kappa")->lock;
	if (!found)
	{
		memset(shared, 0, sizeof(KappaShared));
		ConditionVariableInit(&shared->changed);
		init_process_slots(supervisors);
		init_process_slots(workers);
		memset(views, 0, kappa_max_views * sizeof(KappaViewSlot));
		for (int i = 0; i < kappa_max_views; i++)
			init_counters(&views[i].counters);
		memset(requests, 0, MaxBackends * sizeof(KappaRequest));
		init_log_area(lock->tranche);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
kappa_shmem_init(void)
{
	next_request_hook = shmem_request_hook;
	shmem_request_hook = request_space;
	next_startup_hook = shmem_startup_hook;
	shmem_startup_hook = init_shared;
}

bool
kappa_shmem_available(void)
{
	return shared != NULL;
}

/* The mapping lasts as long as the process. */
static dsa_area *
get_log_area(void)
{
	if (log_area == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		log_area = dsa_attach_in_place(log_space, NULL);
		dsa_pin_mapping(log_area);
		on_shmem_exit(dsa_on_shmem_exit_release_in_place, PointerGetDatum(log_space));
		MemoryContextSwitchTo(old);
	}
	return log_area;
}

/* ---- waking ---- */

static void
wake(KappaProcess *process)
{
	pg_atomic_write_u32(&process->attention, 1);
	if (process->latch != NULL)
		SetLatch(process->latch);
}

static void
wake_worker(int slot)
{
	if (slot >= 0)
		wake(&workers[slot]);
}

/* The caller holds the lock. */
static KappaProcess *
find_supervisor(Oid dbid)
{
	for (int i = 0; i < max_worker_processes; i++)
		if (supervisors[i].dbid == dbid)
			return &supervisors[i];
	return NULL;
}

static void
tell_launcher(Oid dbid)
{
	bool known = false;

	for (int i = 0; i < shared->nwoken; i++)
		known |= shared->woken[i] == dbid;
	if (!known && shared->nwoken < MAX_WOKEN)
		shared->woken[shared->nwoken++] = dbid;
	else if (!known)
		shared->woken_all = true;
	if (shared->launcher != NULL)
		SetLatch(shared->launcher);
}

static void
tell_supervisor(Oid dbid, bool reload)
{
	KappaProcess *supervisor = find_supervisor(dbid);

	if (supervisor != NULL)
	{
		supervisor->reload |= reload;
		wake(supervisor);
	}

	/* One that has not looked yet may have looked too early. */
	if (supervisor == NULL || supervisor->state != KAPPA_DATABASE_SERVING)
		tell_launcher(dbid);
}

void
kappa_shmem_wake_supervisor(bool reload)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	tell_supervisor(MyDatabaseId, reload);
	LWLockRelease(lock);
}

bool
kappa_shmem_take_attention(void)
{
	return pg_atomic_exchange_u32(&MyProcess->attention, 0) != 0;
}

/* Read without the lock: whoever sets it sets the latch afterwards. */
bool
kappa_shmem_stopping(void)
{
	return MyProcess->stop;
}

/* ---- news for whoever waits ---- */

void
kappa_shmem_change_prepare(void)
{
	ConditionVariablePrepareToSleep(&shared->changed);
}

bool
kappa_shmem_change_sleep(int64 timeout_ms)
{
	return ConditionVariableTimedSleep(&shared->changed,
									   Min(Max(timeout_ms, 1), INT_MAX),
									   WaitEventExtensionNew("KappaChange"));
}

void
kappa_shmem_change_cancel(void)
{
	ConditionVariableCancelSleep();
}

void
kappa_shmem_announce_change(void)
{
	if (kappa_shmem_available())
		ConditionVariableBroadcast(&shared->changed);
}

/* ---- evictions ---- */

/* Whether kappa is to stay out of a database; the caller holds the lock. */
static bool
is_evicted(Oid dbid, TimestampTz *until)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < MAX_EVICTIONS; i++)
	{
		if (shared->evictions[i].dbid != dbid || shared->evictions[i].until <= now)
			continue;
		if (until != NULL)
			*until = shared->evictions[i].until;
		return true;
	}
	return false;
}

bool
kappa_shmem_is_evicted(Oid dbid, TimestampTz *until)
{
	bool result;

	LWLockAcquire(lock, LW_SHARED);
	result = is_evicted(dbid, until);
	LWLockRelease(lock);
	return result;
}

/*
 * Enter a database into the list, over its own entry or the one that ends
 * first.  (That one's processes may then come back early, and its DROP
 * DATABASE may fail: it takes 32 of them at a time.)
 */
static void
add_eviction(Oid dbid)
{
	int best = 0;

	for (int i = 0; i < MAX_EVICTIONS; i++)
	{
		if (shared->evictions[i].dbid == dbid)
		{
			best = i;
			break;
		}
		if (shared->evictions[i].until < shared->evictions[best].until)
			best = i;
	}
	shared->evictions[best].dbid = dbid;
	shared->evictions[best].until =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), EVICTION_MS);
}

/*
 * Ask the processes of an array that work in a database to stop; with a
 * signal, those that are busy too.  Returns the number of those still there.
 */
static int
stop_processes(KappaProcess *slots, Oid dbid, bool signal)
{
	int n = 0;

	for (int i = 0; i < max_worker_processes; i++)
	{
		KappaProcess *process = &slots[i];

		if (process->dbid != dbid || process->pid == 0)
			continue;
		n++;
		process->stop = true;
		wake(process);
		if (signal)
			kill(process->pid, SIGTERM);
	}
	return n;
}

void
kappa_shmem_evict(Oid dbid)
{
	TimestampTz start = GetCurrentTimestamp();
	bool signalled = false;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	add_eviction(dbid);
	LWLockRelease(lock);

	kappa_shmem_change_prepare();
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool signal = !signalled && now - start > EVICTION_POLITE_MS * INT64CONST(1000);
		int n;

		LWLockAcquire(lock, LW_EXCLUSIVE);
		n = stop_processes(supervisors, dbid, signal);
		n += stop_processes(workers, dbid, signal);
		LWLockRelease(lock);
		signalled |= signal;
		if (n == 0 || now - start > EVICTION_WAIT_MS * INT64CONST(1000))
			break;
		kappa_shmem_change_sleep(EVICTION_POLITE_MS);
	}
	kappa_shmem_change_cancel();
}

static void
readmit(Oid dbid)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_EVICTIONS; i++)
		if (shared->evictions[i].dbid == dbid)
			shared->evictions[i].until = 0;
	tell_launcher(dbid);
	LWLockRelease(lock);
}

/* ---- at the end of a transaction ---- */

/* What is to be done at the end of this transaction. */
static bool wake_pending = false;
static Oid readmit_pending = InvalidOid;

static void
finish_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (wake_pending)
				kappa_shmem_wake_supervisor(true);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	if (OidIsValid(readmit_pending))
		readmit(readmit_pending);
	wake_pending = false;
	readmit_pending = InvalidOid;
}

static void
register_finish(void)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(finish_transaction, NULL);
	registered = true;
}

void
kappa_shmem_wake_at_commit(void)
{
	if (!kappa_shmem_available())
		return;
	register_finish();
	wake_pending = true;
}

/* Before that, the launcher would meet a database that is about to vanish. */
void
kappa_shmem_readmit(Oid dbid)
{
	register_finish();
	if (OidIsValid(readmit_pending) && readmit_pending != dbid)
		readmit(readmit_pending);
	readmit_pending = dbid;
}

/* ---- the launcher ---- */

static void
detach_launcher(int code, Datum arg)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	shared->launcher = NULL;
	LWLockRelease(lock);
}

void
kappa_shmem_attach_launcher(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	shared->launcher = MyLatch;
	LWLockRelease(lock);
	on_shmem_exit(detach_launcher, (Datum) 0);
}

int
kappa_shmem_take_woken(Oid *dbids, int max, bool *all)
{
	int n;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	n = Min(shared->nwoken, max);
	memcpy(dbids, shared->woken, n * sizeof(Oid));
	*all = shared->woken_all || shared->nwoken > max;
	shared->nwoken = 0;
	shared->woken_all = false;
	LWLockRelease(lock);
	return n;
}

/* ---- processes ---- */

/* Take a free slot for a process to be; the caller holds the lock. */
static bool
reserve_process(KappaProcess *slots, Oid dbid, KappaProcessId *id)
{
	for (int i = 0; i < max_worker_processes; i++)
	{
		KappaProcess *process = &slots[i];

		if (OidIsValid(process->dbid))
			continue;
		process->dbid = dbid;
		process->generation++;
		process->pid = 0;
		process->latch = NULL;
		process->stop = false;
		process->catchup = false;
		process->reload = false;
		process->state = KAPPA_DATABASE_STARTING;
		process->started_at = GetCurrentTimestamp();
		pg_atomic_write_u32(&process->attention, 0);
		id->dbid = dbid;
		id->slot = i;
		id->generation = process->generation;
		return true;
	}
	return false;
}

/* Free the slot of a process that never came or has gone. */
static void
free_process(KappaProcess *slots, const KappaProcessId *id)
{
	KappaProcess *process = &slots[id->slot];

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (process->generation == id->generation && process->pid == 0)
		process->dbid = InvalidOid;
	LWLockRelease(lock);
}

bool
kappa_shmem_database_reserve(Oid dbid, KappaProcessId *id)
{
	bool result;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	result = reserve_process(supervisors, dbid, id);
	LWLockRelease(lock);
	return result;
}

/* The caller holds the lock, and nobody owns the view. */
static void
free_view_slot(KappaViewSlot *slot)
{
	if (DsaPointerIsValid(slot->log))
		dsa_free(get_log_area(), slot->log);
	slot->log = InvalidDsaPointer;
	slot->npartitions = 0;
	slot->dbid = InvalidOid;
}

/*
 * The launcher has seen the end of a supervisor.  If no worker is left either
 * the database's views go, too: it may have been dropped.  Otherwise they wait
 * for the next supervisor.
 */
void
kappa_shmem_database_free(const KappaProcessId *id)
{
	bool busy = false;

	free_process(supervisors, id);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < max_worker_processes; i++)
		busy |= workers[i].dbid == id->dbid;
	for (int i = 0; i < kappa_max_views && !busy; i++)
		if (views[i].dbid == id->dbid)
			free_view_slot(&views[i]);
	LWLockRelease(lock);
}

int
kappa_shmem_get_databases(KappaDatabaseStatus **statuses)
{
	int n = 0;

	*statuses = palloc(max_worker_processes * sizeof(KappaDatabaseStatus));
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < max_worker_processes; i++)
	{
		KappaDatabaseStatus *status = &(*statuses)[n];

		if (!OidIsValid(supervisors[i].dbid))
			continue;
		status->id.dbid = supervisors[i].dbid;
		status->id.slot = i;
		status->id.generation = supervisors[i].generation;
		status->state = supervisors[i].state;
		status->pid = supervisors[i].pid;
		status->started_at = supervisors[i].started_at;
		n++;
	}
	LWLockRelease(lock);
	return n;
}

void
kappa_shmem_set_exit_reason(int sqlstate, const char *reason)
{
	exit_sqlstate = sqlstate;
	strlcpy(exit_reason, reason, sizeof(exit_reason));
}

int64
kappa_shmem_retry_delay(int failures, int max_delay)
{
	int64 delay = INT64CONST(1000) << Min(Max(failures - 1, 0), 30);

	return Min(delay, max_delay);
}

/* The caller holds the lock. */
static void
change_state(KappaViewSlot *slot, KappaRunState state)
{
	if (slot->state != state)
		slot->since = GetCurrentTimestamp();
	slot->state = state;
}

/* The delays begin anew after a minute of health. */
static void
note_failure(KappaViewSlot *slot, int sqlstate, const char *reason)
{
	TimestampTz now = GetCurrentTimestamp();

	if (slot->healthy_since != 0 &&
		now - slot->healthy_since > HEALTHY_MS * INT64CONST(1000))
		slot->failures = 0;
	slot->healthy_since = 0;
	slot->failures++;
	slot->sqlstate = sqlstate;
	strlcpy(slot->reason, reason, sizeof(slot->reason));
	slot->retry_at = TimestampTzPlusMilliseconds(now,
												 kappa_shmem_retry_delay(slot->failures, kappa_retry_max_delay));
	change_state(slot, KAPPA_RUN_RETRYING);
}

/*
 * A worker exits: its views have no owner any more.  If it did so because of
 * an error, those that it had not taken yet are delayed, too: whatever keeps a
 * worker from starting must not make the supervisor start one after the other.
 */
static void
leave_views(int worker, int code)
{
	const char *reason = exit_reason[0] != '\0' ? exit_reason : "its worker was terminated";

	for (int i = 0; i < kappa_max_views; i++)
	{
		KappaViewSlot *slot = &views[i];
		bool owned = slot->owner == worker;

		if (!OidIsValid(slot->dbid) || (!owned && slot->wanted != worker))
			continue;
		if (owned)
		{
			slot->owner = -1;
			slot->caught_up = false;
		}
		if (slot->wanted == worker)
			slot->wanted = -1;
		if (code == 0 && owned && slot->state != KAPPA_RUN_RETRYING)
		{
			change_state(slot, KAPPA_RUN_WAITING);
			strlcpy(slot->reason, "waiting for a worker", sizeof(slot->reason));
		}
		if (code == 0 || slot->owner >= 0)
			continue;
		pg_atomic_fetch_add_u64(&slot->counters.restarts, 1);
		if (slot->trouble == KAPPA_TROUBLE_NONE)
			slot->trouble = KAPPA_TROUBLE_RESTART;
		note_failure(slot, exit_sqlstate, reason);
	}
}

/* on_shmem_exit callback */
static void
leave_slot(int code, Datum arg)
{
	Oid dbid = MyProcess->dbid;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	MyProcess->pid = 0;
	MyProcess->latch = NULL;
	if (MyWorkerSlot >= 0)
	{
		leave_views(MyWorkerSlot, code);
		MyProcess->dbid = InvalidOid;
		tell_supervisor(dbid, false);
	}
	else
	{
		if (MyProcess->state != KAPPA_DATABASE_ABSENT)
			MyProcess->state = KAPPA_DATABASE_EXITED;
		if (shared->launcher != NULL)
			SetLatch(shared->launcher);
	}
	LWLockRelease(lock);
	ConditionVariableBroadcast(&shared->changed);
}

static bool
attach_process(KappaProcess *slots, const KappaProcessId *id)
{
	KappaProcess *process = &slots[id->slot];
	bool mine;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	mine = process->dbid == id->dbid && process->generation == id->generation &&
		!process->stop;
	if (mine && is_evicted(id->dbid, NULL))
	{
		/* A worker's slot is nobody's now; a supervisor's the launcher frees. */
		if (slots == workers)
			process->dbid = InvalidOid;
		process->state = KAPPA_DATABASE_EXITED;
		mine = false;
	}
	if (mine)
	{
		process->pid = MyProcPid;
		process->latch = MyLatch;
	}
	LWLockRelease(lock);

	if (!mine)
		return false;
	MyProcess = process;
	on_shmem_exit(leave_slot, (Datum) 0);
	return true;
}

bool
kappa_shmem_attach_supervisor(const KappaProcessId *id)
{
	return attach_process(supervisors, id);
}

bool
kappa_shmem_attach_worker(const KappaProcessId *id)
{
	if (!attach_process(workers, id))
		return false;
	MyWorkerSlot = id->slot;
	return true;
}

/* ---- the supervisor ---- */

void
kappa_shmem_database_report(KappaDatabaseState state)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	MyProcess->state = state;
	if (shared->launcher != NULL)
		SetLatch(shared->launcher);
	LWLockRelease(lock);
}

bool
kappa_shmem_take_reload(void)
{
	bool result;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	result = MyProcess->reload;
	MyProcess->reload = false;
	LWLockRelease(lock);
	return result;
}

bool
kappa_shmem_worker_reserve(bool catchup, KappaProcessId *id)
{
	bool result;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	result = reserve_process(workers, MyDatabaseId, id);
	if (result)
		workers[id->slot].catchup = catchup;
	LWLockRelease(lock);
	return result;
}

/* Its views are to be given to others. */
void
kappa_shmem_worker_free(const KappaProcessId *id)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (workers[id->slot].generation == id->generation && workers[id->slot].pid == 0)
		for (int i = 0; i < kappa_max_views; i++)
			if (views[i].dbid == id->dbid && views[i].wanted == id->slot)
				views[i].wanted = -1;
	LWLockRelease(lock);
	free_process(workers, id);
}

void
kappa_shmem_worker_set_catchup(int slot, bool catchup)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	workers[slot].catchup = catchup;
	wake_worker(slot);
	LWLockRelease(lock);
}

void
kappa_shmem_stop_workers(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	(void) stop_processes(workers, MyDatabaseId, false);
	LWLockRelease(lock);
}

int
kappa_shmem_get_workers(KappaWorkerStatus **statuses)
{
	int n = 0;

	*statuses = palloc(max_worker_processes * sizeof(KappaWorkerStatus));
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < max_worker_processes; i++)
	{
		KappaWorkerStatus *status = &(*statuses)[n];

		if (workers[i].dbid != MyDatabaseId)
			continue;
		status->id.dbid = MyDatabaseId;
		status->id.slot = i;
		status->id.generation = workers[i].generation;
		status->pid = workers[i].pid;
		status->catchup = workers[i].catchup;
		status->stop = workers[i].stop;
		status->started_at = workers[i].started_at;
		n++;
	}
	LWLockRelease(lock);
	return n;
}

/* ---- view slots ---- */

static void
copy_place(KappaViewPlace *place, int i)
{
	KappaViewSlot *slot = &views[i];

	place->slot = i;
	place->view = slot->view;
	place->version = slot->version;
	place->owner = slot->owner;
	place->wanted = slot->wanted;
	place->state = slot->state;
	place->caught_up = slot->caught_up;
	place->failing = slot->trouble == KAPPA_TROUBLE_FAILURE;
	place->retry_at = slot->retry_at;
}

int
kappa_shmem_get_places(KappaViewPlace **places)
{
	int n = 0;

	*places = palloc(kappa_max_views * sizeof(KappaViewPlace));
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < kappa_max_views; i++)
		if (views[i].dbid == MyDatabaseId)
			copy_place(&(*places)[n++], i);
	LWLockRelease(lock);
	return n;
}

static void
init_view_slot(KappaViewSlot *slot, Oid view, int32 version)
{
	slot->dbid = MyDatabaseId;
	slot->view = view;
	slot->version = version;
	slot->owner = -1;
	slot->wanted = -1;
	slot->state = KAPPA_RUN_WAITING;
	slot->since = GetCurrentTimestamp();
	slot->retry_at = 0;
	slot->healthy_since = slot->since;
	slot->caught_up = false;
	slot->trouble = KAPPA_TROUBLE_NONE;
	slot->failures = 0;
	slot->sqlstate = 0;
	strlcpy(slot->reason, "starting", sizeof(slot->reason));
	slot->npartitions = 0;
	slot->log = InvalidDsaPointer;
	init_counters(&slot->counters);
}

int
kappa_shmem_view_add(Oid view, int32 version)
{
	int result = -1;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < kappa_max_views && result < 0; i++)
		if (!OidIsValid(views[i].dbid))
			result = i;
	if (result >= 0)
		init_view_slot(&views[result], view, version);
	LWLockRelease(lock);
	return result;
}

bool
kappa_shmem_view_remove(int slot)
{
	bool owned;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	owned = views[slot].owner >= 0;
	views[slot].wanted = -1;
	if (owned)
		wake_worker(views[slot].owner);
	else
		free_view_slot(&views[slot]);
	LWLockRelease(lock);
	kappa_shmem_announce_change();
	return !owned;
}

void
kappa_shmem_view_assign(int slot, int worker)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	views[slot].wanted = worker;
	wake_worker(worker);
	if (views[slot].owner >= 0 && views[slot].owner != worker)
		wake_worker(views[slot].owner);
	LWLockRelease(lock);
}

void
kappa_shmem_view_postpone(int slot, const char *reason, TimestampTz retry_at)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	change_state(&views[slot], KAPPA_RUN_WAITING);
	strlcpy(views[slot].reason, reason, KAPPA_REASON_LEN);
	views[slot].sqlstate = 0;
	views[slot].retry_at = retry_at;
	LWLockRelease(lock);
	kappa_shmem_announce_change();
}

int
kappa_shmem_take_views(KappaViewPlace **places)
{
	int n = 0;

	*places = palloc(kappa_max_views * sizeof(KappaViewPlace));
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < kappa_max_views; i++)
	{
		if (views[i].dbid != MyDatabaseId)
			continue;
		if (views[i].owner < 0 && views[i].wanted == MyWorkerSlot)
			views[i].owner = MyWorkerSlot;
		if (views[i].owner == MyWorkerSlot)
			copy_place(&(*places)[n++], i);
	}
	LWLockRelease(lock);
	return n;
}

/* The caller holds the lock. */
static void
release_view(KappaViewSlot *slot)
{
	slot->owner = -1;
	if (slot->wanted == MyWorkerSlot)
		slot->wanted = -1;
	wake_worker(slot->wanted);
	tell_supervisor(MyDatabaseId, false);
}

void
kappa_shmem_view_release(int slot)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	release_view(&views[slot]);
	LWLockRelease(lock);
}

static bool
record_trouble(KappaViewSlot *slot, int sqlstate, const char *reason)
{
	bool first = slot->trouble != KAPPA_TROUBLE_FAILURE;

	slot->trouble = KAPPA_TROUBLE_FAILURE;
	slot->caught_up = false;
	note_failure(slot, sqlstate, reason);
	return first;
}

bool
kappa_shmem_view_failed(int slot, int sqlstate, const char *reason)
{
	bool first;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	first = record_trouble(&views[slot], sqlstate, reason);
	pg_atomic_fetch_add_u64(&views[slot].counters.restarts, 1);
	views[slot].wanted = -1;
	release_view(&views[slot]);
	LWLockRelease(lock);
	kappa_shmem_announce_change();
	return first;
}

bool
kappa_shmem_view_suspend(int slot, int sqlstate, const char *reason, TimestampTz retry_at)
{
	bool first;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	first = record_trouble(&views[slot], sqlstate, reason);
	if (retry_at != 0)
	{
		/* Not a failure that makes its own next delay longer. */
		views[slot].failures--;
		views[slot].retry_at = retry_at;
	}
	LWLockRelease(lock);
	kappa_shmem_announce_change();
	return first;
}

const char *
kappa_shmem_view_recovered(int index)
{
	KappaViewSlot *slot = &views[index];
	KappaTrouble trouble;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	trouble = slot->trouble;
	slot->trouble = KAPPA_TROUBLE_NONE;
	slot->healthy_since = GetCurrentTimestamp();
	slot->sqlstate = 0;
	slot->retry_at = 0;
	slot->reason[0] = '\0';
	if (slot->state == KAPPA_RUN_RETRYING)
		change_state(slot, KAPPA_RUN_CATCHING_UP);
	LWLockRelease(lock);
	kappa_shmem_announce_change();
	switch (trouble)
	{
		case KAPPA_TROUBLE_FAILURE:
			return "recovered";
		case KAPPA_TROUBLE_RESTART:
			return "restarted";
		case KAPPA_TROUBLE_NONE:
			break;
	}
	return NULL;
}

void
kappa_shmem_view_set_state(int index, KappaRunState state)
{
	KappaViewSlot *slot = &views[index];
	bool changed;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	changed = slot->state != state && slot->state != KAPPA_RUN_RETRYING;
	if (changed)
	{
		change_state(slot, state);
		slot->reason[0] = '\0';
		slot->sqlstate = 0;
		slot->retry_at = 0;
	}
	LWLockRelease(lock);
	if (changed)
		kappa_shmem_announce_change();
}

void
kappa_shmem_view_caught_up(int slot)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (!views[slot].caught_up)
	{
		views[slot].caught_up = true;
		tell_supervisor(MyDatabaseId, false);
	}
	LWLockRelease(lock);
}

/* Make room for the positions of a view; false if there is no memory. */
static bool
size_log(KappaViewSlot *slot, int npartitions)
{
	if (slot->npartitions == npartitions && DsaPointerIsValid(slot->log))
		return true;
	if (DsaPointerIsValid(slot->log))
		dsa_free(log_area, slot->log);
	slot->npartitions = npartitions;
	slot->log = dsa_allocate_extended(log_area, 2 * Max(npartitions, 1) * sizeof(int64),
									  DSA_ALLOC_NO_OOM);
	return DsaPointerIsValid(slot->log);
}

void
kappa_shmem_view_publish(int index, int npartitions,
						 const int64 *end_offset, const int64 *last_message_at)
{
	KappaViewSlot *slot = &views[index];

	get_log_area();
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (size_log(slot, npartitions))
	{
		int64 *values = dsa_get_address(log_area, slot->log);

		memcpy(values, end_offset, npartitions * sizeof(int64));
		memcpy(values + npartitions, last_message_at, npartitions * sizeof(int64));
	}
	LWLockRelease(lock);
}

KappaCounters *
kappa_shmem_view_counters(int slot)
{
	return &views[slot].counters;
}

/* ---- reading ---- */

static void
copy_status(KappaViewStatus *status, KappaViewSlot *slot)
{
	status->dbid = slot->dbid;
	status->view = slot->view;
	status->version = slot->version;
	status->state = slot->state;
	status->since = slot->since;
	status->retry_at = slot->retry_at;
	status->failures = slot->failures;
	status->sqlstate = slot->sqlstate;
	strlcpy(status->reason, slot->reason, sizeof(status->reason));
	status->worker_pid = slot->owner >= 0 ? workers[slot->owner].pid : 0;
	status->messages = pg_atomic_read_u64(&slot->counters.messages);
	status->bytes = pg_atomic_read_u64(&slot->counters.bytes);
	status->rows = pg_atomic_read_u64(&slot->counters.rows);
	status->batches = pg_atomic_read_u64(&slot->counters.batches);
	status->fetch_us = pg_atomic_read_u64(&slot->counters.fetch_us);
	status->apply_us = pg_atomic_read_u64(&slot->counters.apply_us);
	status->commit_us = pg_atomic_read_u64(&slot->counters.commit_us);
	status->restarts = pg_atomic_read_u64(&slot->counters.restarts);
}

/* The caller holds the lock; -1 if there is none. */
static int
find_view(Oid view, int32 version)
{
	for (int i = 0; i < kappa_max_views; i++)
		if (views[i].dbid == MyDatabaseId && views[i].view == view &&
			views[i].version == version)
			return i;
	return -1;
}

bool
kappa_shmem_get_view(Oid view, int32 version, KappaViewStatus *status)
{
	int i;

	if (!kappa_shmem_available())
		return false;
	LWLockAcquire(lock, LW_SHARED);
	i = find_view(view, version);
	if (i >= 0)
		copy_status(status, &views[i]);
	LWLockRelease(lock);
	return i >= 0;
}

int
kappa_shmem_get_views(KappaViewStatus **statuses)
{
	int n = 0;

	*statuses = NULL;
	if (!kappa_shmem_available())
		return 0;
	*statuses = palloc(kappa_max_views * sizeof(KappaViewStatus));
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < kappa_max_views; i++)
		if (views[i].dbid == MyDatabaseId)
			copy_status(&(*statuses)[n++], &views[i]);
	LWLockRelease(lock);
	return n;
}

/*
 * The number of partitions may change between the look at it and the copy:
 * then look again.
 */
KappaLogStatus *
kappa_shmem_get_log(Oid view, int32 version)
{
	KappaLogStatus *status;
	int room = 0;

	if (!kappa_shmem_available())
		return NULL;
	get_log_area();
	status = palloc(sizeof(KappaLogStatus));
	for (;;)
	{
		int64 *values = palloc(2 * Max(room, 1) * sizeof(int64));
		int n = -1;
		int i;

		LWLockAcquire(lock, LW_SHARED);
		i = find_view(view, version);
		if (i >= 0 && views[i].owner >= 0 && DsaPointerIsValid(views[i].log))
			n = views[i].npartitions;
		if (n > 0 && n <= room)
			memcpy(values, dsa_get_address(log_area, views[i].log), 2 * n * sizeof(int64));
		LWLockRelease(lock);

		if (n < 0)
			return NULL;
		if (n <= room)
		{
			status->npartitions = n;
			status->end_offset = values;
			status->last_message_at = values + n;
			return status;
		}
		pfree(values);
		room = n;
	}
}

/* ---- waiting until messages are applied ---- */

/*
 * Leave a request for the view's workers.  A backend that exits in the middle
 * leaves it behind; whoever answers it then wakes a stranger, who looks and
 * sleeps on.
 */
static uint32
place_request(Oid view)
{
	KappaRequest *request = &requests[MyProcNumber];
	uint32 serial;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	request->dbid = MyDatabaseId;
	request->view = view;
	request->done = false;
	serial = ++request->serial;
	for (int i = 0; i < kappa_max_views; i++)
		if (views[i].dbid == MyDatabaseId && views[i].view == view)
			wake_worker(views[i].owner);
	LWLockRelease(lock);
	return serial;
}

static bool
request_done(void)
{
	bool done;

	LWLockAcquire(lock, LW_SHARED);
	done = requests[MyProcNumber].done;
	LWLockRelease(lock);
	return done;
}

static void
withdraw_request(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	requests[MyProcNumber].dbid = InvalidOid;
	LWLockRelease(lock);
}

bool
kappa_shmem_wait_applied(Oid view, int64 timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	volatile bool done = false;

	(void) place_request(view);
	PG_TRY();
	{
		for (;;)
		{
			long left;

			done = request_done();
			left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
			if (done || left <= 0)
				break;
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 left, WaitEventExtensionNew("KappaWaitFor"));
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_FINALLY();
	{
		withdraw_request();
	}
	PG_END_TRY();
	return done;
}

/* Whether this worker serves the view; the caller holds the lock. */
static bool
owns_view(Oid view)
{
	for (int i = 0; i < kappa_max_views; i++)
		if (views[i].dbid == MyDatabaseId && views[i].view == view &&
			views[i].owner == MyWorkerSlot)
			return true;
	return false;
}

int
kappa_shmem_get_requests(KappaWaitRequest **result)
{
	int n = 0;

	*result = NULL;
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < MaxBackends; i++)
		n += requests[i].dbid == MyDatabaseId;
	LWLockRelease(lock);
	if (n == 0)
		return 0;

	*result = palloc(MaxBackends * sizeof(KappaWaitRequest));
	n = 0;
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < MaxBackends; i++)
	{
		if (requests[i].dbid != MyDatabaseId || requests[i].done ||
			!owns_view(requests[i].view))
			continue;
		(*result)[n].procno = i;
		(*result)[n].serial = requests[i].serial;
		(*result)[n].view = requests[i].view;
		n++;
	}
	LWLockRelease(lock);
	return n;
}

void
kappa_shmem_answer(const KappaWaitRequest *answer)
{
	KappaRequest *request = &requests[answer->procno];

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (request->dbid == MyDatabaseId && request->serial == answer->serial)
	{
		request->done = true;
		SetLatch(&ProcGlobal->allProcs[answer->procno].procLatch);
	}
	LWLockRelease(lock);
}
