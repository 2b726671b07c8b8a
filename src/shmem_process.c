/*-------------------------------------------------------------------------
 *
 * shmem_process.c
 *	  Who works in which database: slots of supervisors and workers
 *
 * The slot of a process is reserved by whoever starts it, attached to by the
 * process itself, and freed when that has left the list of backends: so that a
 * database without slots has no process of kappa any more.
 *
 * IDENTIFICATION
 *	  src/shmem_process.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "kappa.h"
#include "shmem_private.h"

/* How long kappa stays out of a database that it was asked to leave. */
#define EVICTION_MS 60000

/* How long to wait for that, and when to be less polite. */
#define EVICTION_WAIT_MS 5000
#define EVICTION_POLITE_MS 100

/* Why this process exits. */
static int exit_sqlstate = 0;
static char exit_reason[KAPPA_REASON_LEN] = "its worker was terminated";

/* ---- evictions ---- */

/* Whether kappa is to stay out of a database; the caller holds the lock. */
static bool
is_evicted(Oid dbid, TimestampTz *until)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < MAX_EVICTIONS; i++)
	{
		KappaEviction *eviction = &kappa_shmem.common->evictions[i];

		if (eviction->dbid != dbid || eviction->until <= now)
			continue;
		if (until != NULL)
			*until = eviction->until;
		return true;
	}
	return false;
}

bool
kappa_shmem_is_evicted(Oid dbid, TimestampTz *until)
{
	bool result;

	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	result = is_evicted(dbid, until);
	LWLockRelease(kappa_shmem.lock);
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
		if (kappa_shmem.common->evictions[i].dbid == dbid)
		{
			best = i;
			break;
		}
		if (kappa_shmem.common->evictions[i].until < kappa_shmem.common->evictions[best].until)
			best = i;
	}
	kappa_shmem.common->evictions[best].dbid = dbid;
	kappa_shmem.common->evictions[best].until =
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
		kappa_shmem_wake(process);
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

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	add_eviction(dbid);
	LWLockRelease(kappa_shmem.lock);

	kappa_shmem_change_prepare();
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool signal = !signalled && now - start > EVICTION_POLITE_MS * INT64CONST(1000);
		int n;

		LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
		n = stop_processes(kappa_shmem.supervisors, dbid, signal);
		n += stop_processes(kappa_shmem.workers, dbid, signal);
		LWLockRelease(kappa_shmem.lock);
		signalled |= signal;
		if (n == 0 || now - start > EVICTION_WAIT_MS * INT64CONST(1000))
			break;
		kappa_shmem_change_sleep(EVICTION_POLITE_MS);
	}
	kappa_shmem_change_cancel();
}

void
kappa_shmem_lift_eviction(Oid dbid)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_EVICTIONS; i++)
		if (kappa_shmem.common->evictions[i].dbid == dbid)
			kappa_shmem.common->evictions[i].until = 0;
	kappa_shmem_tell_launcher(dbid);
	LWLockRelease(kappa_shmem.lock);
}

/* ---- the launcher ---- */

static void
detach_launcher(int code, Datum arg)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	kappa_shmem.common->launcher = NULL;
	LWLockRelease(kappa_shmem.lock);
}

void
kappa_shmem_attach_launcher(void)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	kappa_shmem.common->launcher = MyLatch;
	LWLockRelease(kappa_shmem.lock);
	on_shmem_exit(detach_launcher, (Datum) 0);
}

int
kappa_shmem_take_woken(Oid *dbids, int max, bool *all)
{
	int n;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	n = Min(kappa_shmem.common->nwoken, max);
	memcpy(dbids, kappa_shmem.common->woken, n * sizeof(Oid));
	*all = kappa_shmem.common->woken_all || kappa_shmem.common->nwoken > max;
	kappa_shmem.common->nwoken = 0;
	kappa_shmem.common->woken_all = false;
	LWLockRelease(kappa_shmem.lock);
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
		process->view = InvalidOid;
		process->version = 0;
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

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	if (process->generation == id->generation && process->pid == 0)
		process->dbid = InvalidOid;
	LWLockRelease(kappa_shmem.lock);
}

bool
kappa_shmem_database_reserve(Oid dbid, KappaProcessId *id)
{
	bool result;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	result = reserve_process(kappa_shmem.supervisors, dbid, id);
	LWLockRelease(kappa_shmem.lock);
	return result;
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

	free_process(kappa_shmem.supervisors, id);

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	for (int i = 0; i < max_worker_processes; i++)
		busy |= kappa_shmem.workers[i].dbid == id->dbid;
	LWLockRelease(kappa_shmem.lock);
	if (!busy)
		kappa_shmem_free_views(id->dbid);
}

int
kappa_shmem_get_databases(KappaDatabaseStatus **statuses)
{
	int n = 0;

	*statuses = palloc(max_worker_processes * sizeof(KappaDatabaseStatus));
	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	for (int i = 0; i < max_worker_processes; i++)
	{
		KappaDatabaseStatus *status = &(*statuses)[n];

		if (!OidIsValid(kappa_shmem.supervisors[i].dbid))
			continue;
		status->id.dbid = kappa_shmem.supervisors[i].dbid;
		status->id.slot = i;
		status->id.generation = kappa_shmem.supervisors[i].generation;
		status->state = kappa_shmem.supervisors[i].state;
		status->pid = kappa_shmem.supervisors[i].pid;
		status->reload = kappa_shmem.supervisors[i].reload;
		status->started_at = kappa_shmem.supervisors[i].started_at;
		n++;
	}
	LWLockRelease(kappa_shmem.lock);
	return n;
}

void
kappa_shmem_set_exit_reason(int sqlstate, const char *reason)
{
	exit_sqlstate = sqlstate;
	strlcpy(exit_reason, reason, sizeof(exit_reason));
}

/* on_shmem_exit callback */
static void
leave_slot(int code, Datum arg)
{
	Oid dbid = MyKappaProcess->dbid;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	MyKappaProcess->pid = 0;
	MyKappaProcess->latch = NULL;
	if (MyKappaWorkerSlot >= 0)
	{
		kappa_shmem_leave_views(MyKappaWorkerSlot, code != 0, exit_sqlstate, exit_reason);
		MyKappaProcess->dbid = InvalidOid;
		kappa_shmem_tell_supervisor(dbid, false);
	}
	else
	{
		if (MyKappaProcess->state != KAPPA_DATABASE_ABSENT)
			MyKappaProcess->state = KAPPA_DATABASE_EXITED;
		if (kappa_shmem.common->launcher != NULL)
			SetLatch(kappa_shmem.common->launcher);
	}
	LWLockRelease(kappa_shmem.lock);
	ConditionVariableBroadcast(&kappa_shmem.common->changed);
}

static bool
attach_process(KappaProcess *slots, const KappaProcessId *id)
{
	KappaProcess *process = &slots[id->slot];
	bool mine;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	mine = process->dbid == id->dbid && process->generation == id->generation &&
		   !process->stop;
	if (mine && is_evicted(id->dbid, NULL))
	{
		/* A worker's slot is nobody's now; a supervisor's the launcher frees. */
		if (slots == kappa_shmem.workers)
			process->dbid = InvalidOid;
		process->state = KAPPA_DATABASE_EXITED;
		mine = false;
	}
	if (mine)
	{
		process->pid = MyProcPid;
		process->latch = MyLatch;
	}
	LWLockRelease(kappa_shmem.lock);

	if (!mine)
		return false;
	MyKappaProcess = process;
	on_shmem_exit(leave_slot, (Datum) 0);
	return true;
}

bool
kappa_shmem_attach_supervisor(const KappaProcessId *id)
{
	return attach_process(kappa_shmem.supervisors, id);
}

bool
kappa_shmem_attach_worker(const KappaProcessId *id)
{
	if (!attach_process(kappa_shmem.workers, id))
		return false;
	MyKappaWorkerSlot = id->slot;
	return true;
}

/* ---- the supervisor ---- */

void
kappa_shmem_database_report(KappaDatabaseState state)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	MyKappaProcess->state = state;
	if (kappa_shmem.common->launcher != NULL)
		SetLatch(kappa_shmem.common->launcher);
	LWLockRelease(kappa_shmem.lock);
}

bool
kappa_shmem_take_reload(void)
{
	bool result;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	result = MyKappaProcess->reload;
	MyKappaProcess->reload = false;
	LWLockRelease(kappa_shmem.lock);
	return result;
}

static bool
reserve_worker(bool catchup, Oid view, int32 version, KappaProcessId *id)
{
	bool result;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	result = reserve_process(kappa_shmem.workers, MyDatabaseId, id);
	if (result)
	{
		kappa_shmem.workers[id->slot].catchup = catchup;
		kappa_shmem.workers[id->slot].view = view;
		kappa_shmem.workers[id->slot].version = version;
	}
	LWLockRelease(kappa_shmem.lock);
	return result;
}

bool
kappa_shmem_worker_reserve(bool catchup, KappaProcessId *id)
{
	return reserve_worker(catchup, InvalidOid, 0, id);
}

bool
kappa_shmem_filler_reserve(Oid view, int32 version, KappaProcessId *id)
{
	return reserve_worker(false, view, version, id);
}

/* Its views are to be given to others. */
void
kappa_shmem_worker_free(const KappaProcessId *id)
{
	KappaProcess *worker = &kappa_shmem.workers[id->slot];

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	if (worker->generation == id->generation && worker->pid == 0)
		for (int i = 0; i < kappa_max_views; i++)
			if (kappa_shmem.views[i].dbid == id->dbid && kappa_shmem.views[i].wanted == id->slot)
				kappa_shmem.views[i].wanted = -1;
	LWLockRelease(kappa_shmem.lock);
	free_process(kappa_shmem.workers, id);
}

/* Whether a worker is there, or will be; the caller holds the lock. */
static bool
is_present(const KappaProcessId *id)
{
	KappaProcess *worker = &kappa_shmem.workers[id->slot];

	return worker->dbid == id->dbid && worker->generation == id->generation;
}

void
kappa_shmem_worker_set_catchup(const KappaProcessId *id, bool catchup)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	if (is_present(id))
	{
		kappa_shmem.workers[id->slot].catchup = catchup;
		kappa_shmem_wake_worker(id->slot);
	}
	LWLockRelease(kappa_shmem.lock);
}

void
kappa_shmem_worker_stop(const KappaProcessId *id)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	if (is_present(id))
	{
		kappa_shmem.workers[id->slot].stop = true;
		kappa_shmem_wake_worker(id->slot);
	}
	LWLockRelease(kappa_shmem.lock);
}

void
kappa_shmem_stop_workers(void)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	(void) stop_processes(kappa_shmem.workers, MyDatabaseId, false);
	LWLockRelease(kappa_shmem.lock);
}

int
kappa_shmem_get_workers(KappaWorkerStatus **statuses)
{
	int n = 0;

	*statuses = palloc(max_worker_processes * sizeof(KappaWorkerStatus));
	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	for (int i = 0; i < max_worker_processes; i++)
	{
		KappaWorkerStatus *status = &(*statuses)[n];

		if (kappa_shmem.workers[i].dbid != MyDatabaseId)
			continue;
		status->id.dbid = MyDatabaseId;
		status->id.slot = i;
		status->id.generation = kappa_shmem.workers[i].generation;
		status->pid = kappa_shmem.workers[i].pid;
		status->catchup = kappa_shmem.workers[i].catchup;
		status->filler = OidIsValid(kappa_shmem.workers[i].view);
		status->stop = kappa_shmem.workers[i].stop;
		status->started_at = kappa_shmem.workers[i].started_at;
		n++;
	}
	LWLockRelease(kappa_shmem.lock);
	return n;
}
