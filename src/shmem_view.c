/*-------------------------------------------------------------------------
 *
 * shmem_view.c
 *	  Slots of views: who serves them, how they are doing, where they stand
 *
 * The supervisor makes and frees the slots of its database and says which worker
 * is wanted for each; the workers take views and give them up, and report.
 *
 * IDENTIFICATION
 *	  src/shmem_view.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "kappa.h"
#include "shmem_private.h"

/* The longest delay before a view whose table was locked is tried again. */
#define MAX_LOCK_DELAY_MS 5000

static dsa_area *log_area = NULL;

/* ---- making and freeing ---- */

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
	pg_atomic_init_u64(&counters->letters, 0);
}

/*
 * To be called before the lock is taken, since it may throw.  The mapping lasts
 * as long as the process.
 */
static void
attach_log_area(void)
{
	MemoryContext old;

	if (log_area != NULL)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	log_area = dsa_attach_in_place(kappa_shmem.log_space, NULL);
	dsa_pin_mapping(log_area);
	on_shmem_exit(dsa_on_shmem_exit_release_in_place,
				  PointerGetDatum(kappa_shmem.log_space));
	MemoryContextSwitchTo(old);
}

void
kappa_shmem_init_views(void)
{
	memset(kappa_shmem.views, 0, kappa_max_views * sizeof(KappaViewSlot));
	for (int i = 0; i < kappa_max_views; i++)
		init_counters(&kappa_shmem.views[i].counters);
}

/*
 * Whoever has found no slot for a view shall look again, in all databases: the
 * slots are the server's.
 */
static void
offer_view_slot(void)
{
	if (!kappa_shmem.common->view_slot_missing)
		return;
	kappa_shmem.common->view_slot_missing = false;
	for (int i = 0; i < max_worker_processes; i++)
		if (OidIsValid(kappa_shmem.supervisors[i].dbid))
			kappa_shmem_tell_supervisor(kappa_shmem.supervisors[i].dbid, true);
}

/* The caller holds the lock, and is attached to the area; nobody owns the view. */
static void
free_view_slot(KappaViewSlot *slot)
{
	if (DsaPointerIsValid(slot->log))
		dsa_free(log_area, slot->log);
	slot->log = InvalidDsaPointer;
	slot->npartitions = 0;
	slot->dbid = InvalidOid;
	offer_view_slot();
}

void
kappa_shmem_free_views(Oid dbid)
{
	attach_log_area();
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	for (int i = 0; i < kappa_max_views; i++)
		if (kappa_shmem.views[i].dbid == dbid)
			free_view_slot(&kappa_shmem.views[i]);
	LWLockRelease(kappa_shmem.lock);
}

/* ---- failures ---- */

/* The caller of the functions here holds the lock. */

int64
kappa_shmem_retry_delay(int failures, int max_delay)
{
	int64 delay = INT64CONST(1000) << Min(Max(failures - 1, 0), 30);

	return Min(delay, max_delay);
}

static void
change_state(KappaViewSlot *slot, KappaRunState state)
{
	if (slot->state != state)
		slot->since = GetCurrentTimestamp();
	slot->state = state;
}

/*
 * The delays begin anew after a minute of health.  Locks come and go: a view
 * that waits for one shall not wait for long after it.
 */
static void
note_failure(KappaViewSlot *slot, int sqlstate, const char *reason)
{
	TimestampTz now = GetCurrentTimestamp();
	int64 delay;

	if (slot->healthy_since != 0 &&
		now - slot->healthy_since > KAPPA_HEALTHY_MS * INT64CONST(1000))
		slot->failures = 0;
	slot->healthy_since = 0;
	slot->failures++;
	slot->sqlstate = sqlstate;
	strlcpy(slot->reason, reason, sizeof(slot->reason));
	delay = kappa_shmem_retry_delay(slot->failures, kappa_retry_max_delay);
	if (sqlstate == ERRCODE_LOCK_NOT_AVAILABLE)
		delay = Min(delay, MAX_LOCK_DELAY_MS);
	slot->retry_at = TimestampTzPlusMilliseconds(now, delay);
	change_state(slot, KAPPA_RUN_RETRYING);
}

/*
 * A worker exits: its views have no owner any more.  If it did so because of
 * an error, those that it had not taken yet are delayed, too: whatever keeps a
 * worker from starting must not make the supervisor start one after the other.
 */
void
kappa_shmem_leave_views(int worker, bool failed, int sqlstate, const char *reason)
{
	for (int i = 0; i < kappa_max_views; i++)
	{
		KappaViewSlot *slot = &kappa_shmem.views[i];
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
		if (!failed && owned && slot->state != KAPPA_RUN_RETRYING)
		{
			change_state(slot, KAPPA_RUN_WAITING);
			strlcpy(slot->reason, "waiting for a worker", sizeof(slot->reason));
		}
		if (!failed || slot->owner >= 0)
			continue;
		pg_atomic_fetch_add_u64(&slot->counters.restarts, 1);
		if (slot->trouble == KAPPA_TROUBLE_NONE)
			slot->trouble = KAPPA_TROUBLE_RESTART;
		note_failure(slot, sqlstate, reason);
	}
}

/* ---- view slots ---- */

static void
copy_place(KappaViewPlace *place, int i)
{
	KappaViewSlot *slot = &kappa_shmem.views[i];

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
	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	for (int i = 0; i < kappa_max_views; i++)
		if (kappa_shmem.views[i].dbid == MyDatabaseId)
			copy_place(&(*places)[n++], i);
	LWLockRelease(kappa_shmem.lock);
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
	slot->nfaults = 0;
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

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	for (int i = 0; i < kappa_max_views && result < 0; i++)
		if (!OidIsValid(kappa_shmem.views[i].dbid))
			result = i;
	if (result >= 0)
		init_view_slot(&kappa_shmem.views[result], view, version);
	else
		kappa_shmem.common->view_slot_missing = true;
	LWLockRelease(kappa_shmem.lock);
	return result;
}

bool
kappa_shmem_has_view_slot(void)
{
	bool result = false;

	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	for (int i = 0; i < kappa_max_views && !result; i++)
		result = !OidIsValid(kappa_shmem.views[i].dbid);
	LWLockRelease(kappa_shmem.lock);
	return result;
}

bool
kappa_shmem_view_remove(int slot)
{
	bool owned;

	attach_log_area();
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	owned = kappa_shmem.views[slot].owner >= 0;
	kappa_shmem.views[slot].wanted = -1;
	if (owned)
		kappa_shmem_wake_worker(kappa_shmem.views[slot].owner);
	else
		free_view_slot(&kappa_shmem.views[slot]);
	LWLockRelease(kappa_shmem.lock);
	kappa_shmem_announce_change();
	return !owned;
}

/* The caller holds the lock. */
static void
assign_view(KappaViewSlot *view, const KappaProcessId *worker)
{
	KappaProcess *process = &kappa_shmem.workers[worker->slot];

	if (process->dbid != worker->dbid || process->generation != worker->generation ||
		(view->owner < 0 && view->retry_at > GetCurrentTimestamp()))
		return;
	view->wanted = worker->slot;
	kappa_shmem_wake_worker(worker->slot);
	if (view->owner >= 0 && view->owner != worker->slot)
		kappa_shmem_wake_worker(view->owner);
}

void
kappa_shmem_assign_views(const KappaAssignment *assignments, int n)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
		assign_view(&kappa_shmem.views[assignments[i].slot], &assignments[i].worker);
	LWLockRelease(kappa_shmem.lock);
}

void
kappa_shmem_view_postpone(int slot, const char *reason, TimestampTz retry_at)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	change_state(&kappa_shmem.views[slot], KAPPA_RUN_WAITING);
	strlcpy(kappa_shmem.views[slot].reason, reason, KAPPA_REASON_LEN);
	kappa_shmem.views[slot].sqlstate = 0;
	kappa_shmem.views[slot].retry_at = retry_at;
	LWLockRelease(kappa_shmem.lock);
	kappa_shmem_announce_change();
}

int
kappa_shmem_take_views(KappaViewPlace **places)
{
	int n = 0;

	*places = palloc(kappa_max_views * sizeof(KappaViewPlace));
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	for (int i = 0; i < kappa_max_views; i++)
	{
		if (kappa_shmem.views[i].dbid != MyDatabaseId)
			continue;
		if (kappa_shmem.views[i].owner < 0 && kappa_shmem.views[i].wanted == MyKappaWorkerSlot)
			kappa_shmem.views[i].owner = MyKappaWorkerSlot;
		if (kappa_shmem.views[i].owner == MyKappaWorkerSlot)
			copy_place(&(*places)[n++], i);
	}
	LWLockRelease(kappa_shmem.lock);
	return n;
}

/* The caller holds the lock. */
static void
release_view(KappaViewSlot *slot)
{
	slot->owner = -1;
	if (slot->wanted == MyKappaWorkerSlot)
		slot->wanted = -1;
	kappa_shmem_wake_worker(slot->wanted);
	kappa_shmem_tell_supervisor(MyDatabaseId, false);
}

void
kappa_shmem_view_release(int slot)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	release_view(&kappa_shmem.views[slot]);
	LWLockRelease(kappa_shmem.lock);
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

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	first = record_trouble(&kappa_shmem.views[slot], sqlstate, reason);
	pg_atomic_fetch_add_u64(&kappa_shmem.views[slot].counters.restarts, 1);
	kappa_shmem.views[slot].wanted = -1;
	release_view(&kappa_shmem.views[slot]);
	LWLockRelease(kappa_shmem.lock);
	kappa_shmem_announce_change();
	return first;
}

bool
kappa_shmem_view_suspend(int slot, int sqlstate, const char *reason, TimestampTz retry_at)
{
	bool first;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	first = record_trouble(&kappa_shmem.views[slot], sqlstate, reason);
	if (retry_at != 0)
	{
		/* Not a failure that makes its own next delay longer. */
		kappa_shmem.views[slot].failures--;
		kappa_shmem.views[slot].retry_at = retry_at;
	}
	LWLockRelease(kappa_shmem.lock);
	kappa_shmem_announce_change();
	return first;
}

int
kappa_shmem_view_count_fault(int index, int sqlstate, const char *message)
{
	KappaViewSlot *slot = &kappa_shmem.views[index];
	uint32 fault = hash_combine(sqlstate, hash_bytes((const unsigned char *) message,
													 strlen(message)));
	int n;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	if (slot->fault != fault)
		slot->nfaults = 0;
	slot->fault = fault;
	n = ++slot->nfaults;
	LWLockRelease(kappa_shmem.lock);
	return n;
}

const char *
kappa_shmem_view_recovered(int index)
{
	KappaViewSlot *slot = &kappa_shmem.views[index];
	KappaTrouble trouble;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	trouble = slot->trouble;
	slot->trouble = KAPPA_TROUBLE_NONE;
	slot->nfaults = 0;
	slot->healthy_since = GetCurrentTimestamp();
	slot->sqlstate = 0;
	slot->retry_at = 0;
	slot->reason[0] = '\0';
	if (slot->state == KAPPA_RUN_RETRYING)
		change_state(slot, KAPPA_RUN_CATCHING_UP);
	LWLockRelease(kappa_shmem.lock);
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
	KappaViewSlot *slot = &kappa_shmem.views[index];
	bool changed;

	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	changed = slot->state != state && slot->state != KAPPA_RUN_RETRYING;
	if (changed)
	{
		change_state(slot, state);
		slot->reason[0] = '\0';
		slot->sqlstate = 0;
		slot->retry_at = 0;
	}
	LWLockRelease(kappa_shmem.lock);
	if (changed)
		kappa_shmem_announce_change();
}

void
kappa_shmem_view_caught_up(int slot)
{
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	if (!kappa_shmem.views[slot].caught_up)
	{
		kappa_shmem.views[slot].caught_up = true;
		kappa_shmem_tell_supervisor(MyDatabaseId, false);
	}
	LWLockRelease(kappa_shmem.lock);
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
	KappaViewSlot *slot = &kappa_shmem.views[index];

	attach_log_area();
	LWLockAcquire(kappa_shmem.lock, LW_EXCLUSIVE);
	if (size_log(slot, npartitions))
	{
		int64 *values = dsa_get_address(log_area, slot->log);

		memcpy(values, end_offset, npartitions * sizeof(int64));
		memcpy(values + npartitions, last_message_at, npartitions * sizeof(int64));
	}
	LWLockRelease(kappa_shmem.lock);
}

KappaCounters *
kappa_shmem_view_counters(int slot)
{
	return &kappa_shmem.views[slot].counters;
}

/* ---- reading ---- */

/* Processes that replay the log into a version; the caller holds the lock. */
static int
count_fillers(const KappaViewSlot *slot)
{
	int n = 0;

	for (int i = 0; i < max_worker_processes; i++)
	{
		KappaProcess *worker = &kappa_shmem.workers[i];

		n += worker->dbid == slot->dbid && worker->pid != 0 &&
			 worker->view == slot->view && worker->version == slot->version;
	}
	return n;
}

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
	status->worker_pid = slot->owner >= 0 ? kappa_shmem.workers[slot->owner].pid : 0;
	status->nprocesses = count_fillers(slot) + (status->worker_pid != 0);
	status->messages = pg_atomic_read_u64(&slot->counters.messages);
	status->bytes = pg_atomic_read_u64(&slot->counters.bytes);
	status->rows = pg_atomic_read_u64(&slot->counters.rows);
	status->batches = pg_atomic_read_u64(&slot->counters.batches);
	status->fetch_us = pg_atomic_read_u64(&slot->counters.fetch_us);
	status->apply_us = pg_atomic_read_u64(&slot->counters.apply_us);
	status->commit_us = pg_atomic_read_u64(&slot->counters.commit_us);
	status->restarts = pg_atomic_read_u64(&slot->counters.restarts);
	status->letters = pg_atomic_read_u64(&slot->counters.letters);
}

/* The caller holds the lock; -1 if there is none. */
static int
find_view(Oid view, int32 version)
{
	for (int i = 0; i < kappa_max_views; i++)
		if (kappa_shmem.views[i].dbid == MyDatabaseId && kappa_shmem.views[i].view == view &&
			kappa_shmem.views[i].version == version)
			return i;
	return -1;
}

bool
kappa_shmem_get_view(Oid view, int32 version, KappaViewStatus *status)
{
	int i;

	if (!kappa_shmem_available())
		return false;
	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	i = find_view(view, version);
	if (i >= 0)
		copy_status(status, &kappa_shmem.views[i]);
	LWLockRelease(kappa_shmem.lock);
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
	LWLockAcquire(kappa_shmem.lock, LW_SHARED);
	for (int i = 0; i < kappa_max_views; i++)
		if (kappa_shmem.views[i].dbid == MyDatabaseId)
			copy_status(&(*statuses)[n++], &kappa_shmem.views[i]);
	LWLockRelease(kappa_shmem.lock);
	return n;
}

/* Returns the number of partitions; copies only if there is room for them. */
static int
copy_log(KappaViewSlot *slot, int64 *values, int room)
{
	if (!DsaPointerIsValid(slot->log))
		return -1;
	if (slot->npartitions <= room)
		memcpy(values, dsa_get_address(log_area, slot->log),
			   2 * slot->npartitions * sizeof(int64));
	return slot->npartitions;
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
	attach_log_area();
	status = palloc(sizeof(KappaLogStatus));
	for (;;)
	{
		int64 *values = palloc(2 * Max(room, 1) * sizeof(int64));
		int n = -1;
		int i;

		LWLockAcquire(kappa_shmem.lock, LW_SHARED);
		i = find_view(view, version);
		if (i >= 0)
			n = copy_log(&kappa_shmem.views[i], values, room);
		LWLockRelease(kappa_shmem.lock);

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
