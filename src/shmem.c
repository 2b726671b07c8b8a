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

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/resowner.h"

#include "compat.h"
#include "kappa.h"
#include "shmem_private.h"

/* Of the area of log positions; it grows through dynamic shared memory. */
#define LOG_AREA_SIZE (128 * 1024)

KappaSharedMemory kappa_shmem;
KappaProcess *MyKappaProcess = NULL;
int MyKappaWorkerSlot = -1;

static shmem_request_hook_type next_request_hook = NULL;
static shmem_startup_hook_type next_startup_hook = NULL;

/* ---- making it ---- */

static Size
process_space(void)
{
	return mul_size(max_worker_processes, sizeof(KappaProcess));
}

static Size
view_space(void)
{
	return mul_size(kappa_max_views, sizeof(KappaViewSlot));
}

static Size
wait_space(void)
{
	return mul_size(MaxBackends, sizeof(KappaRequest));
}

static void
request_space(void)
{
	if (next_request_hook)
		next_request_hook();

	RequestAddinShmemSpace(MAXALIGN(sizeof(KappaShared)));
	RequestAddinShmemSpace(2 * MAXALIGN(process_space()));
	RequestAddinShmemSpace(MAXALIGN(view_space()));
	RequestAddinShmemSpace(MAXALIGN(wait_space()));
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

/* For the positions in the log; backends attach to it when they need it. */
static void
init_log_area(int tranche)
{
	dsa_area *area = dsa_create_in_place(kappa_shmem.log_space, LOG_AREA_SIZE, tranche, NULL);

	dsa_pin(area);
	dsa_detach(area);
}

static void
init_shared(void)
{
	bool found;

	if (next_startup_hook)
		next_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	kappa_shmem.supervisors = ShmemInitStruct("kappa supervisors", process_space(), &found);
	kappa_shmem.workers = ShmemInitStruct("kappa workers", process_space(), &found);
	kappa_shmem.views = ShmemInitStruct("kappa views", view_space(), &found);
	kappa_shmem.requests = ShmemInitStruct("kappa requests", wait_space(), &found);
	kappa_shmem.log_space = ShmemInitStruct("kappa log positions", LOG_AREA_SIZE, &found);
	kappa_shmem.common = ShmemInitStruct("kappa", sizeof(KappaShared), &found);
	kappa_shmem.lock = &GetNamedLWLockTranche("kappa")->lock;
	if (!found)
	{
		memset(kappa_shmem.common, 0, sizeof(KappaShared));
		ConditionVariableInit(&kappa_shmem.common->changed);
		init_process_slots(kappa_shmem.supervisors);
		init_process_slots(kappa_shmem.workers);
		kappa_shmem_init_views();
		memset(kappa_shmem.requests, 0, MaxBackends * sizeof(KappaRequest));
		init_log_area(kappa_shmem.lock->tranche);
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
	return kappa_shmem.common != NULL;
}

/* ---- waking ---- */

void
kappa_shmem_wake(KappaProcess *process)
{
	pg_atomic_write_u32(&process->attention, 1);
	if (process->latch != NULL)
		SetLatch(process->latch);
}

void
kappa_shmem_wake_worker(int slot)
{
	if (slot >= 0)
		kappa_shmem_wake(&kappa_shmem.workers[slot]);
}

/* The caller holds the lock. */
static KappaProcess *
find_supervisor(Oid dbid)
{
	for (int i = 0; i < max_worker_processes; i++)
		if (kappa_shmem.supervisors[i].dbid == dbid)
			return &kappa_shmem.supervisors[i];
	return NULL;
}

void
kappa_shmem_tell_launcher(Oid dbid)
{
	bool known = false;

	for (int i = 0; i < kappa_shmem.common->nwoken; i++)
		known |= kappa_shmem.common->woken[i] == dbid;
	if (!known && kappa_shmem.common->nwoken < MAX_WOKEN)
		kappa_shmem.common->woken[kappa_shmem.common->nwoken++] = dbid;
	else if (!known)
		kappa_shmem.common->woken_all = true;
	if (kappa_shmem.common->launcher != NULL)
		SetLatch(kappa_shmem.common->launcher);
}

void
kappa_shmem_tell_supervisor(Oid dbid, bool reload)
{
	KappaProcess *supervisor = find_supervisor(dbid);

	if (supervisor != NULL)
	{
		supervisor->reload |= reload;
		kappa_shmem_wake(supervisor);
	}

	/* One that has not looked yet may have looked too early. */
	if (supervisor == NULL || supervisor->state != KAPPA_DATABASE_SERVING)
		kappa_shmem_tell_launcher(dbid);
}

void
kappa_shmem_wake_supervisor(bool reload)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	kappa_shmem_tell_supervisor(MyDatabaseId, reload);
	LWLockRelease(kappa_shmem.lock);
}

/* Read without the lock: whoever sets it sets the latch afterwards. */
bool
kappa_shmem_stopping(void)
{
	return MyKappaProcess->stop;
}

bool
kappa_shmem_take_attention(void)
{
	return pg_atomic_exchange_u32(&MyKappaProcess->attention, 0) != 0;
}

/* ---- at the end of a transaction ---- */

/* What is to be done at the end of this transaction. */
static bool wake_pending = false;
static Oid readmit_pending = InvalidOid;

/* Workers, too: the foreign table or the server of a view may be another now. */
static void
wake_database(void)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	kappa_shmem_tell_supervisor(MyDatabaseId, true);
	for (int i = 0; i < max_worker_processes; i++)
		if (kappa_shmem.workers[i].dbid == MyDatabaseId)
			kappa_shmem_wake_worker(i);
	LWLockRelease(kappa_shmem.lock);
}

/*
 * This is the place, and not a transaction callback: whoever is woken must
 * find the locks released and the invalidation messages sent.
 */
static void
finish_transaction(ResourceReleasePhase phase, bool commit, bool top_level, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !top_level)
		return;
	if (wake_pending && commit)
		wake_database();
	wake_pending = false;
	if (OidIsValid(readmit_pending))
		kappa_shmem_lift_eviction(readmit_pending);
	readmit_pending = InvalidOid;
}

static void
note_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PREPARE)
		wake_pending = false;
}

static void
register_finish(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterResourceReleaseCallback(finish_transaction, NULL);
	RegisterXactCallback(note_transaction, NULL);
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
		kappa_shmem_lift_eviction(readmit_pending);
	readmit_pending = dbid;
}

/* ---- news for whoever waits ---- */

void
kappa_shmem_change_prepare(void)
{
	ConditionVariablePrepareToSleep(&kappa_shmem.common->changed);
}

bool
kappa_shmem_change_sleep(int64 timeout_ms)
{
	return ConditionVariableTimedSleep(&kappa_shmem.common->changed,
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
		ConditionVariableBroadcast(&kappa_shmem.common->changed);
}
