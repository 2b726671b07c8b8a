/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *	  Bring a view's next version from the start of the log to the readers
 *
 * The steps of a rebuild, as the worker that applies messages to the shadow
 * takes them:
 *
 * - replay the log, if it is long by processes for that (fill.c), else here, in
 *   a worker of its own;
 * - give the shadow the indexes that the view has, and catch up again;
 * - join the worker of the live version, unless it could go there at once
 *   because nothing was lacking after the replay.  From then on both move in the same
 *   transactions, so every new snapshot sees them at the same offsets;
 * - wait until the snapshots are gone that are older.  To such a snapshot the
 *   shadow's rows are others than the view's at its offsets, or invisible,
 *   and the exchange of files would show it those;
 * - switch, in one short transaction.
 *
 * What has to survive a crash is in tables; the state kept here is made anew
 * in whatever process continues.
 *
 * IDENTIFICATION
 *	  src/rebuild.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "definition.h"
#include "fault.h"
#include "rebuild.h"
#include "rebuild_commands.h"
#include "rebuild_previous.h"
#include "rebuild_run.h"
#include "rebuild_switch.h"
#include "shmem.h"
#include "swap.h"
#include "swap_index.h"
#include "worker.h"

#define REPORT_INTERVAL_MS 1000
#define POLL_INTERVAL_MS 100 /* for what the worker does not announce */
#define MANUAL_INTERVAL_MS 500
#define LOCK_TIMEOUT_MS 30
#define MIN_SNAPSHOT_DELAY_MS 10
#define MAX_SNAPSHOT_DELAY_MS 500
#define MIN_LOCK_DELAY_MS 100
#define MAX_LOCK_DELAY_MS 5000
#define MAX_KEEP_DELAY_MS 3600000

/* A live version that has failed so often in a row is not waited for. */
#define MAX_FAILURES 3

/* What this process knows of a rebuild; lives in a context of its own. */
typedef struct Rebuild
{
	MemoryContext context;
	Oid view;
	int32 version;
	const char *phase; /* static text, as last reported */
	TimestampTz reported_at;
	bool prepared;             /* the shadow has the view's indexes */
	KappaSnapshots *snapshots; /* taken when both versions stood together; or NULL */
	int delay_ms;              /* between two looks at what is waited for */
	TimestampTz next_look;
} Rebuild;

static List *rebuilds = NIL;

/* ---- state ---- */

static Rebuild *
find_rebuild(const KappaApplier *shadow)
{
	MemoryContext context;
	MemoryContext old;
	Rebuild *rebuild;
	ListCell *lc;

	foreach(lc, rebuilds)
	{
		rebuild = lfirst(lc);
		if (rebuild->view == shadow->view && rebuild->version == shadow->version)
			return rebuild;
	}
	context = AllocSetContextCreate(TopMemoryContext, "kappa rebuild",
									ALLOCSET_SMALL_SIZES);
	rebuild = MemoryContextAllocZero(context, sizeof(Rebuild));
	rebuild->context = context;
	rebuild->view = shadow->view;
	rebuild->version = shadow->version;
	old = MemoryContextSwitchTo(TopMemoryContext);
	rebuilds = lappend(rebuilds, rebuild);
	MemoryContextSwitchTo(old);
	return rebuild;
}

static void
forget_rebuild(Rebuild *rebuild)
{
	rebuilds = list_delete_ptr(rebuilds, rebuild);
	MemoryContextDelete(rebuild->context);
}

void
kappa_rebuild_forget(Oid view)
{
	ListCell *lc;

	foreach(lc, list_copy(rebuilds))
	{
		Rebuild *rebuild = lfirst(lc);

		if (rebuild->view == view)
			forget_rebuild(rebuild);
	}
}

/* ---- reporting ---- */

static int64
count_messages(const KappaApplier *applier)
{
	int64 messages = 0;

	for (int p = 0; p < applier->npartitions; p++)
	{
		if (applier->next_offset[p] >= 0)
			messages += applier->next_offset[p] - Max(applier->start_offset[p], 0);
	}
	return messages;
}

/* Show phase and progress: at once when the phase is new, else now and then. */
static void
report(Rebuild *rebuild, const KappaApplier *shadow, const char *phase, int waiting_for)
{
	TimestampTz now = GetCurrentTimestamp();
	bool changed = rebuild->phase == NULL || strcmp(rebuild->phase, phase) != 0;

	if (!changed &&
		!TimestampDifferenceExceeds(rebuild->reported_at, now, REPORT_INTERVAL_MS))
		return;

	kappa_worker_begin();
	kappa_rebuild_run_report(rebuild->view, rebuild->version, phase,
							 count_messages(shadow), waiting_for);
	CommitTransactionCommand();
	rebuild->phase = phase;
	rebuild->reported_at = now;
	if (changed)
		kappa_shmem_announce_change();
}

/* Look again after a while that grows from min to max. */
static void
postpone(Rebuild *rebuild, int min_ms, int max_ms)
{
	rebuild->delay_ms = Max(min_ms, Min(rebuild->delay_ms * 2, max_ms));
	rebuild->next_look = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 rebuild->delay_ms);
}

/* True if it is not time yet; *delay_ms: for how long. */
static bool
too_early(const Rebuild *rebuild, int *delay_ms)
{
	long ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
											  rebuild->next_look);

	*delay_ms = ms;
	return ms > 0;
}

/* ---- indexes ---- */

/*
 * A dump keeps no dropped columns: layouts that were equal may differ in what
 * it is restored to.  And users may have made an index.
 */
static bool
can_exchange(Oid view, Oid shadow)
{
	Relation target_rel = table_open(view, AccessShareLock);
	Relation shadow_rel = table_open(shadow, AccessShareLock);
	bool can = kappa_rebuild_describe_obstacle(view, shadow) == NULL;

	table_close(shadow_rel, AccessShareLock);
	table_close(target_rel, AccessShareLock);
	return can;
}

/* What the shadow lacks to take the place of the view's table. */
static bool
lacks_something(Oid view, Oid shadow)
{
	Relation rel;
	bool analyzed;

	if (!kappa_swap_indexes_equal(view, shadow))
		return true;
	rel = table_open(shadow, AccessShareLock);
	analyzed = rel->rd_rel->reltuples >= 0;
	table_close(rel, AccessShareLock);
	return !analyzed;
}

/*
 * Give the shadow the view's indexes, and statistics.  False if there was
 * nothing to do, so that no time has passed.
 */
static bool
prepare_shadow(Rebuild *rebuild, const KappaApplier *shadow)
{
	bool lacking = false;

	kappa_worker_begin();
	if (can_exchange(rebuild->view, shadow->target))
		lacking = lacks_something(rebuild->view, shadow->target);
	else
		(void) kappa_rebuild_run_set_switch(rebuild->view, rebuild->version, KAPPA_SWITCH_ROWS);
	CommitTransactionCommand();
	if (!lacking)
		return false;

	report(rebuild, shadow, KAPPA_PHASE_INDEXES, 0);
	kappa_worker_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	kappa_swap_build_indexes(rebuild->view, shadow->target);
	PopActiveSnapshot();
	kappa_definition_analyze_table(shadow->target);
	KAPPA_FAULT(REBUILD_INDEXED, rebuild->view);
	CommitTransactionCommand();
	return true;
}

void
kappa_rebuild_note_replayed(const KappaApplier *shadow, int64 messages)
{
	KappaRebuildRun *run = kappa_rebuild_run_get(shadow->view);

	if (run == NULL || strcmp(run->switch_kind, KAPPA_SWITCH_ROWS) == 0 ||
		!can_exchange(shadow->view, shadow->target) ||
		!lacks_something(shadow->view, shadow->target))
		kappa_rebuild_run_report(shadow->view, shadow->version, KAPPA_PHASE_CATCHING_UP,
								 messages, 0);
}

/* ---- switching ---- */

static bool
same_position(const KappaApplier *a, const KappaApplier *b)
{
	return a->npartitions == b->npartitions &&
		   memcmp(a->next_offset, b->next_offset, a->npartitions * sizeof(int64)) == 0;
}

/*
 * The rebuild as it stands in the tables now; false if it is gone.  Needs a
 * transaction; the result is in the caller's context.
 */
static bool
get_run(const Rebuild *rebuild, KappaView **view, KappaRebuildRun **run)
{
	*view = kappa_catalog_get_view(rebuild->view);
	*run = kappa_rebuild_run_get(rebuild->view);
	return *view != NULL && *run != NULL &&
		   (*run)->version == rebuild->version && !(*run)->finished;
}

/*
 * Note which snapshots are there, if that has not been done since the two
 * versions stand together.
 */
static void
note_snapshots(Rebuild *rebuild)
{
	MemoryContext old;

	if (rebuild->snapshots != NULL)
		return;
	old = MemoryContextSwitchTo(rebuild->context);
	rebuild->snapshots = kappa_swap_get_snapshots();
	rebuild->delay_ms = 0;
	MemoryContextSwitchTo(old);
}

/*
 * Wait for snapshots that were taken before the two versions stood together.
 * True when there is none.
 */
static bool
snapshots_gone(Rebuild *rebuild, const KappaApplier *shadow)
{
	LOCKTAG waiters;
	int pid;

	note_snapshots(rebuild);
	KAPPA_FAULT(REBUILD_SNAPSHOTS, rebuild->view);
	kappa_rebuild_waiters_tag(rebuild->view, &waiters);
	if (kappa_swap_snapshots_gone(rebuild->snapshots, &waiters, &pid))
		return true;

	report(rebuild, shadow, KAPPA_PHASE_SNAPSHOTS, pid);
	postpone(rebuild, MIN_SNAPSHOT_DELAY_MS, MAX_SNAPSHOT_DELAY_MS);
	return false;
}

/* The shadow does not stand where the view does any more. */
static void
forget_snapshots(Rebuild *rebuild)
{
	if (rebuild->snapshots == NULL)
		return;
	pfree(rebuild->snapshots->vxids);
	pfree(rebuild->snapshots);
	rebuild->snapshots = NULL;
}

/*
 * How to switch.  Since it was decided the view may have been published, say;
 * unless the owner insisted on one way, that is followed.
 */
static const char *
choose_kind(const Rebuild *rebuild, const KappaRebuildRun *run)
{
	if (strcmp(run->switch_kind, run->asked) == 0 ||
		strcmp(run->switch_kind, KAPPA_SWITCH_ROWS) == 0 ||
		kappa_rebuild_needs_rows(rebuild->view) == NULL)
		return run->switch_kind;

	(void) kappa_rebuild_run_set_switch(rebuild->view, rebuild->version, KAPPA_SWITCH_ROWS);
	return KAPPA_SWITCH_ROWS;
}

/*
 * The live version does not move, or fails time and again: a new version, made
 * perhaps because of that, is not to wait until it stands with it.
 */
static bool
stands_alone(const KappaView *view)
{
	KappaViewStatus status;

	if (view->state != KAPPA_VIEW_RUNNING)
		return view->state == KAPPA_VIEW_STOPPED;
	return kappa_shmem_get_view(view->view, view->version, &status) &&
		   status.state == KAPPA_RUN_RETRYING && status.failures >= MAX_FAILURES;
}

/*
 * Try to switch, in the present transaction.  What was known of the rebuild
 * may have changed since it was looked at: then nothing is done, and all is
 * looked at again (KAPPA_SWITCH_CHANGED).  *previous is the version that was
 * live, if it is kept; else 0.
 */
static KappaSwitchResult
try_switch(const Rebuild *rebuild, const KappaApplier *shadow, bool alone, int32 *previous)
{
	KappaVersion *from;
	KappaVersion *to;
	KappaView *view;
	KappaRebuildRun *run;
	KappaSwitchResult result;
	int blocker = 0;

	/* Who pauses the view or the rebuild does so before or after. */
	*previous = 0;
	(void) kappa_catalog_lock_view(rebuild->view);
	if (!get_run(rebuild, &view, &run) || run->paused ||
		(alone ? !stands_alone(view) : view->state == KAPPA_VIEW_STOPPED))
		return KAPPA_SWITCH_CHANGED;
	from = kappa_catalog_get_version(view->view, view->version);
	to = kappa_catalog_get_version(view->view, rebuild->version);
	if (from == NULL || to == NULL)
		return KAPPA_SWITCH_CHANGED;

	result = kappa_rebuild_switch(view, from, to, choose_kind(rebuild, run),
								  LOCK_TIMEOUT_MS, &blocker);
	kappa_rebuild_run_report(rebuild->view, rebuild->version, KAPPA_PHASE_SWITCHING,
							 count_messages(shadow), blocker);
	if (result == KAPPA_SWITCH_DONE)
	{
		kappa_rebuild_run_finish(rebuild->view, rebuild->version,
								 KAPPA_PHASE_DONE, NULL);
		if (kappa_catalog_get_version(view->view, from->version) != NULL)
			*previous = from->version;
	}
	return result;
}

/*
 * The two versions have changed places, and still stand together: what is known
 * of snapshots holds for the way back.
 */
static void
turn_around(Rebuild *rebuild, int32 previous)
{
	rebuild->version = previous;
	rebuild->phase = NULL;
	rebuild->prepared = false;
	rebuild->next_look = 0;
}

/* All is ready: switch now, or say when to try again. */
static KappaRebuildAction
switch_version(Rebuild *rebuild, const KappaApplier *shadow, bool alone, int *delay_ms)
{
	KappaSwitchResult result;
	int32 previous;

	kappa_worker_begin();
	result = try_switch(rebuild, shadow, alone, &previous);
	CommitTransactionCommand();
	if (result == KAPPA_SWITCH_DONE)
		KAPPA_FAULT(SWITCH_COMMITTED, rebuild->view);
	switch (result)
	{
		case KAPPA_SWITCH_DONE:
			kappa_shmem_announce_change();
			if (previous != 0 && !alone)
				turn_around(rebuild, previous);
			else
				forget_rebuild(rebuild);
			return KAPPA_REBUILD_RELOAD;
		case KAPPA_SWITCH_CHANGED:
			rebuild->prepared = false;
			forget_snapshots(rebuild);
			*delay_ms = 0;
			break;
		case KAPPA_SWITCH_LOCKED:
			rebuild->phase = KAPPA_PHASE_SWITCHING;
			postpone(rebuild, MIN_LOCK_DELAY_MS, MAX_LOCK_DELAY_MS);
			*delay_ms = rebuild->delay_ms;
			break;
	}
	return KAPPA_REBUILD_CONTINUE;
}

/*
 * The shadow is ready and stands where the view does (or the view stands
 * still, or fails: alone).
 */
static KappaRebuildAction
finish(Rebuild *rebuild, const KappaApplier *shadow, const KappaRebuildRun *run,
	   bool alone, int *delay_ms)
{
	if (strcmp(run->asked, KAPPA_SWITCH_MANUAL) == 0)
	{
		/* Snapshots of those who begin while it waits need not be waited for later. */
		note_snapshots(rebuild);
		report(rebuild, shadow, KAPPA_PHASE_MANUAL, 0);
		postpone(rebuild, MANUAL_INTERVAL_MS, MANUAL_INTERVAL_MS);
		*delay_ms = rebuild->delay_ms;
		return KAPPA_REBUILD_CONTINUE;
	}
	if (strcmp(run->switch_kind, KAPPA_SWITCH_STORAGE) == 0 &&
		!snapshots_gone(rebuild, shadow))
	{
		*delay_ms = rebuild->delay_ms;
		return KAPPA_REBUILD_CONTINUE;
	}
	return switch_version(rebuild, shadow, alone, delay_ms);
}

/* The shadow has reached the end of the log, or stands where the view does. */
static KappaRebuildAction
advance(Rebuild *rebuild, const KappaApplier *shadow, bool joined, int *delay_ms)
{
	MemoryContext context = CurrentMemoryContext;
	KappaView *view;
	KappaRebuildRun *run;
	bool there;

	kappa_worker_begin();
	MemoryContextSwitchTo(context);
	there = get_run(rebuild, &view, &run);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	if (!there)
	{
		forget_rebuild(rebuild);
		return KAPPA_REBUILD_RELOAD;
	}
	if (!rebuild->prepared && strcmp(run->switch_kind, KAPPA_SWITCH_STORAGE) == 0)
	{
		rebuild->prepared = true;
		if (prepare_shadow(rebuild, shadow))
		{
			forget_snapshots(rebuild);
			report(rebuild, shadow, KAPPA_PHASE_CATCHING_UP, 0);
		}
		*delay_ms = 0;
		return KAPPA_REBUILD_CONTINUE;
	}
	if (view->state == KAPPA_VIEW_PAUSED)
		return KAPPA_REBUILD_CONTINUE;
	if (!joined && view->state == KAPPA_VIEW_RUNNING && !stands_alone(view))
	{
		forget_snapshots(rebuild);
		report(rebuild, shadow, KAPPA_PHASE_CATCHING_UP, 0);
		KAPPA_FAULT(REBUILD_JOINED, rebuild->view);
		*delay_ms = POLL_INTERVAL_MS;
		return KAPPA_REBUILD_JOIN;
	}
	return finish(rebuild, shadow, run, !joined, delay_ms);
}

static KappaRebuildAction
take_step(const KappaApplier *shadow, const KappaApplier *live, bool caught_up,
		  int *delay_ms)
{
	Rebuild *rebuild = find_rebuild(shadow);

	*delay_ms = -1;
	if (live == NULL ? !caught_up : !same_position(shadow, live))
	{
		bool replayed = live != NULL || rebuild->prepared;

		forget_snapshots(rebuild);
		report(rebuild, shadow, replayed ? KAPPA_PHASE_CATCHING_UP : KAPPA_PHASE_REPLAYING, 0);
		*delay_ms = POLL_INTERVAL_MS;
		return KAPPA_REBUILD_CONTINUE;
	}
	if (too_early(rebuild, delay_ms))
		return KAPPA_REBUILD_CONTINUE;
	return advance(rebuild, shadow, live != NULL, delay_ms);
}

/* ---- previous versions ---- */

/*
 * A previous version stays with the live one, and is dropped when its time is
 * over.  Called after each batch, so it looks at no table.
 */
static KappaRebuildAction
keep(const KappaApplier *kept, const KappaApplier *live, bool caught_up, int *delay_ms)
{
	Rebuild *rebuild = find_rebuild(kept);
	long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), kept->kept_until);

	if (left <= 0)
	{
		kappa_worker_begin();
		(void) kappa_previous_drop(kept->view, "its time is over");
		CommitTransactionCommand();
		forget_rebuild(rebuild);
		return KAPPA_REBUILD_RELOAD;
	}
	*delay_ms = Min(left, MAX_KEEP_DELAY_MS);
	if (live != NULL && same_position(kept, live))
		note_snapshots(rebuild);
	else
		forget_snapshots(rebuild);
	return live == NULL && caught_up ? KAPPA_REBUILD_JOIN : KAPPA_REBUILD_CONTINUE;
}

/* ---- errors ---- */

bool
kappa_rebuild_error_may_pass(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	}
}

void
kappa_rebuild_fail(Oid view, int32 version, const char *error)
{
	KappaVersion *row = kappa_catalog_get_version(view, version);

	if (row == NULL || !kappa_rebuild_drop_version(row))
		return;
	kappa_rebuild_run_finish(view, version, KAPPA_PHASE_FAILED, error);
	kappa_catalog_add_event(view, "failed", version, NULL,
							psprintf("%s: %s", row->kept_until != 0 ? "previous version" : "rebuild",
									 error));
}

KappaRebuildAction
kappa_rebuild_step(KappaApplier *shadow, KappaApplier *live, bool caught_up,
				   int *delay_ms)
{
	MemoryContext context = CurrentMemoryContext;
	Oid view = shadow->view;
	int32 version = shadow->version;
	volatile KappaRebuildAction action = KAPPA_REBUILD_RELOAD;

	Assert(!IsTransactionState());
	Assert(!shadow->live);

	PG_TRY();
	{
		if (shadow->kept_until != 0)
			action = keep(shadow, live, caught_up, delay_ms);
		else
			action = take_step(shadow, live, caught_up, delay_ms);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (kappa_rebuild_error_may_pass(error->sqlerrcode))
			PG_RE_THROW();

		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		kappa_worker_begin();
		kappa_rebuild_fail(view, version,
						   error->detail == NULL ? error->message
												 : psprintf("%s: %s", error->message, error->detail));
		CommitTransactionCommand();
		kappa_shmem_announce_change();
		*delay_ms = -1;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return action;
}
