/*-------------------------------------------------------------------------
 *
 * fill.c
 *	  Replay the log into a version by several processes
 *
 * A version that stands at its start, far from the end of the log, is not
 * served by a worker.  The log up to its present end is cut into ranges, a
 * partition each or less (kappa.fill_range).  Processes take what is left of
 * some ranges, as much as they read in a few seconds, run the delta over it
 * (fill_step.c), and commit the rows that come out together with the ranges'
 * new offsets.  A process that dies takes nothing with it but the seconds since
 * its last commit, and whoever comes next goes on from there.
 *
 * The rows of a plain query go into the version's own table.  Where people read
 * it, the position moves with them, which allows of one range for a partition.
 * Other rows are partial results: they go into a staging table without an index,
 * to be made one row per key when all ranges are done.  The transaction that
 * finds them done moves the position to their end.  From there a worker goes on.
 *
 * What fails here because of a message or of the query, is left to a worker,
 * too: it meets the same, and knows what to do.
 *
 * IDENTIFICATION
 *	  src/fill.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/resource.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "definition.h"
#include "fault.h"
#include "fill.h"
#include "fill_run.h"
#include "fill_share.h"
#include "fill_step.h"
#include "kafka_kept.h"
#include "kappa.h"
#include "launcher.h"
#include "rebuild.h"
#include "rebuild_run.h"
#include "worker.h"

/* A transaction should take about so long: locks and a cancelled rebuild wait for its end. */
#define STRETCH_MS 3000
#define FIRST_STRETCH 500000 /* messages */
#define MIN_STRETCH 1000

/* Live views go first: niceness of the processes that replay. */
#define REPLAY_NICENESS 10

/* Between two looks at whether others have left something to do. */
#define POLL_INTERVAL_MS 500

/* Others are waited for so long, to be done with what they have begun. */
#define PATIENCE "1min"

typedef enum FillResult
{
	FILL_MORE, /* a stretch was read */
	FILL_NEXT, /* another version was finished */
	FILL_WAIT, /* others do what there is */
	FILL_DONE, /* there is nothing left to do here */
} FillResult;

static MemoryContext FillerContext;
static Oid fill_view;
static int32 fill_version;
static int64 stretch; /* messages for one transaction */

/* The last one; what it was for lives in FillerContext. */
static int64 messages_read;
static List *members; /* of KappaFillMember */

/* Whose part of it is being done, for the error's address; NULL: all of it. */
static KappaFillMember *current;

/* ---- settings ---- */

static void
set_parallelism(int nworkers)
{
	SetConfigOption("max_parallel_workers_per_gather", psprintf("%d", nworkers), PGC_SUSET,
					PGC_S_OVERRIDE);
}

/* Memory for groups is what maintenance may take; processes are the parallelism. */
static void
set_resources(void)
{
	SetConfigOption("work_mem", psprintf("%dkB", maintenance_work_mem), PGC_SUSET,
					PGC_S_OVERRIDE);
	SetConfigOption("hash_mem_multiplier", "1", PGC_SUSET, PGC_S_OVERRIDE);
	set_parallelism(0);
}

/* ---- a stretch of the log ---- */

static bool
is_own(const KappaFillMember *member)
{
	return member->share->fill->view == fill_view && member->share->fill->version == fill_version;
}

/* Take the next part of each range, all together no more than a stretch. */
static KappaStretch *
choose_stretch(int npartitions, const List *ranges)
{
	KappaStretch *next = palloc0(sizeof(KappaStretch));
	int64 share = Max(stretch / list_length(ranges), 1);
	ListCell *lc;

	next->npartitions = npartitions;
	next->start = palloc0(Max(npartitions, 1) * sizeof(int64));
	next->end = palloc0(Max(npartitions, 1) * sizeof(int64));
	foreach(lc, ranges)
	{
		KappaFillRange *range = lfirst(lc);

		next->start[range->part] = range->next_offset;
		next->end[range->part] = Min(range->next_offset + share, range->end_offset);
	}
	return next;
}

/* No version is read for beyond the end of its range. */
static void
limit_stretch(KappaStretch *next, const List *ranges)
{
	ListCell *lc;

	foreach(lc, ranges)
	{
		KappaFillRange *range = lfirst(lc);

		next->end[range->part] = Min(next->end[range->part], range->end_offset);
	}
}

static KappaStretch *
choose_common_stretch(void)
{
	KappaFillMember *first = linitial(members);
	KappaStretch *next = choose_stretch(first->applier->npartitions, first->share->ranges);
	ListCell *lc;

	foreach(lc, members)
		limit_stretch(next, ((KappaFillMember *) lfirst(lc))->share->ranges);
	for (int p = 0; p < next->npartitions; p++)
		next->messages += next->end[p] - next->start[p];
	return next;
}

/* Move the ranges of a version behind what was read. */
static void
store_ranges(const KappaFillMember *member, const KappaStretch *read)
{
	const KappaFill *fill = member->share->fill;
	ListCell *lc;

	foreach(lc, member->share->ranges)
	{
		KappaFillRange *range = lfirst(lc);

		range->next_offset = read->end[range->part];
		if (!is_own(member))
			range->shared += read->end[range->part] - read->start[range->part];
		kappa_fill_advance(fill->view, fill->version, range);
		if (kappa_fill_is_read(member->applier, fill->staging))
			kappa_fill_move_position(fill->view, fill->version, range->part,
									 range->next_offset);
	}
	KAPPA_FAULT(REPLAY_STRETCHED, fill->view);
	if (!member->applier->live)
		kappa_rebuild_run_add_messages(fill->view, fill->version, read->messages);
}

/* So that the next one takes as long as one should. */
static void
adapt_stretch(TimestampTz start)
{
	long ms = TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());

	if (ms < STRETCH_MS / 2 && messages_read >= stretch / 2)
		stretch *= 2;
	else if (ms > STRETCH_MS * 2)
		stretch = Max(stretch / 2, MIN_STRETCH);
}

static void
replay_stretch(void)
{
	TimestampTz start = GetCurrentTimestamp();
	KappaStretch *next = choose_common_stretch();
	ListCell *lc;

	kappa_fill_read(members, next);
	messages_read = next->messages;
	foreach(lc, members)
	{
		current = lfirst(lc);
		store_ranges(current, next);
	}
	current = NULL;
	adapt_stretch(start);
}

/* ---- the end ---- */

static char *
describe_progress(const KappaFillProgress *progress)
{
	if (progress->shared == 0)
		return psprintf(INT64_FORMAT " messages", progress->messages);
	return psprintf(INT64_FORMAT " messages, " INT64_FORMAT " of them read for another version",
					progress->messages, progress->shared);
}

/* All ranges are done: make a version of what there is. */
static void
finish(KappaApplier *applier, const KappaFill *fill, const KappaFillProgress *progress)
{
	int64 *next = palloc(Max(applier->npartitions, 1) * sizeof(int64));

	KAPPA_FAULT(REPLAY_MERGING, fill->view);
	kappa_catalog_add_event(fill->view, "replayed", fill->version, NULL,
							describe_progress(progress));
	if (!kappa_fill_is_read(applier, fill->staging))
	{
		memcpy(next, applier->next_offset, applier->npartitions * sizeof(int64));
		kappa_fill_get_ends(fill->view, fill->version, next, applier->npartitions);
		kappa_apply_store_position(applier, next);
	}
	if (OidIsValid(fill->staging))
	{
		/* How many groups there are decides about the plan; other processes have nothing to do. */
		kappa_definition_analyze_table(fill->staging);
		set_parallelism(kappa_rebuild_workers - 1);
		kappa_fill_merge(applier, fill);
	}
	if (OidIsValid(fill->staging) || !applier->live)
		kappa_definition_analyze_table(applier->target);
	if (!applier->live)
		kappa_rebuild_note_replayed(applier, progress->messages);
	kappa_fill_delete(fill->view, fill->version);
	kappa_definition_drop_relation(fill->staging, DROP_RESTRICT);
	KAPPA_FAULT(REPLAY_MERGED, fill->view);
	kappa_shmem_wake_at_commit();
}

/* ---- a turn ---- */

/* How many ranges to take at once: the fewer queries, the fewer partial results. */
static int
choose_share(const KappaFillProgress *progress)
{
	return progress->split ? 1 : Max(progress->nopen / kappa_rebuild_workers, 1);
}

static KappaApplier *
open_applier(const KappaFill *fill)
{
	KappaApplier *applier;

	PushActiveSnapshot(GetTransactionSnapshot());
	applier = kappa_apply_open(fill->view, fill->version);
	PopActiveSnapshot();
	return applier;
}

/* Open the versions that a turn is for; those that are gone leave. */
static void
open_members(const List *shares)
{
	List *gone = NIL;
	ListCell *lc;

	foreach(lc, shares)
	{
		KappaFillMember *member = palloc0(sizeof(KappaFillMember));

		member->share = lfirst(lc);
		members = lappend(members, member);
	}
	foreach(lc, members)
	{
		current = lfirst(lc);
		if (current->share->ranges != NIL)
			KAPPA_FAULT(REPLAY_CLAIMED, current->share->fill->view);
		current->applier = open_applier(current->share->fill);
		if (current->applier == NULL)
			gone = lappend(gone, current);
	}
	current = NULL;
	members = list_difference_ptr(members, gone);
}

static FillResult
read_on(const KappaFill *fill, const List *runnable, const KappaFillProgress *progress)
{
	List *shares = kappa_share_claim(fill, runnable, choose_share(progress));
	ListCell *lc;

	if (shares == NIL)
		return FILL_WAIT;
	open_members(shares);
	if (members == NIL)
		return FILL_DONE;
	replay_stretch();
	foreach(lc, members)
		kappa_apply_close(((KappaFillMember *) lfirst(lc))->applier);
	return FILL_MORE;
}

/*
 * A version of which all has been read, and that nobody finishes: the own one, or
 * one that was read along with it.
 */
static KappaFill *
lock_finished(const KappaFill *own, const List *runnable, KappaFillProgress *progress)
{
	ListCell *lc;

	foreach(lc, kappa_fill_list_alike(own))
	{
		KappaFill *other = lfirst(lc);
		KappaFill *fill;

		kappa_fill_get_progress(other->view, other->version, progress);
		if (progress->nopen > 0 || !kappa_share_enter(own, other, runnable))
			continue;
		fill = kappa_fill_lock(other->view, other->version);
		if (fill != NULL && fill->active)
			return fill;
		kappa_share_leave(other, runnable);
	}
	return NULL;
}

static FillResult
finish_one(const KappaFill *own, const List *runnable)
{
	KappaFillShare *share = palloc0(sizeof(KappaFillShare));
	KappaFillProgress progress;

	share->fill = lock_finished(own, runnable, &progress);
	if (share->fill == NULL)
		return FILL_WAIT;
	open_members(list_make1(share));
	if (members == NIL)
		return FILL_DONE;
	current = linitial(members);
	finish(current->applier, share->fill, &progress);
	kappa_apply_close(current->applier);
	return is_own(current) ? FILL_DONE : FILL_NEXT;
}

static FillResult
take_turn_in_transaction(void)
{
	List *runnable = kappa_catalog_list_runnable();
	KappaFill *fill = kappa_fill_get(fill_view, fill_version);
	KappaFillProgress progress;

	if (fill == NULL || !fill->active || !kappa_share_is_runnable(fill, runnable))
		return FILL_DONE;
	kappa_fill_get_progress(fill_view, fill_version, &progress);
	return progress.nopen > 0 ? read_on(fill, runnable, &progress) : finish_one(fill, runnable);
}

static FillResult
take_turn(void)
{
	FillResult result;

	SetCurrentStatementStartTimestamp();
	kappa_worker_begin();
	MemoryContextSwitchTo(FillerContext);
	result = take_turn_in_transaction();
	CommitTransactionCommand();
	MemoryContextSwitchTo(FillerContext);
	return result;
}

/* ---- errors ---- */

static KappaViewPlace *
find_place(const KappaFill *fill)
{
	KappaViewPlace *places;
	int n = kappa_shmem_get_places(&places);

	for (int i = 0; i < n; i++)
		if (places[i].view == fill->view && places[i].version == fill->version)
			return &places[i];
	return NULL;
}

/* Show a view as retrying; the supervisor starts processes again when it is time. */
static void
suspend(const KappaFill *fill, const ErrorData *error)
{
	KappaViewPlace *place = find_place(fill);
	bool first = place != NULL &&
				 kappa_shmem_view_suspend(place->slot, error->sqlerrcode, error->message, 0);

	if (!first)
		return;
	kappa_worker_begin();
	kappa_catalog_add_event(fill->view, "failed", fill->version,
							unpack_sql_state(error->sqlerrcode), error->message);
	CommitTransactionCommand();
}

/* A stretch was committed: count it. */
static void
count_stretch(const KappaFillMember *member)
{
	KappaViewPlace *place = find_place(member->share->fill);
	KappaCounters *counters;

	if (place == NULL)
		return;
	counters = kappa_shmem_view_counters(place->slot);
	pg_atomic_fetch_add_u64(&counters->messages, member->messages);
	pg_atomic_fetch_add_u64(&counters->bytes, member->bytes);
	pg_atomic_fetch_add_u64(&counters->rows, member->rows);
	pg_atomic_fetch_add_u64(&counters->batches, 1);
	pg_atomic_fetch_add_u64(&counters->apply_us, member->time_taken);
	if (!is_own(member) && place->state == KAPPA_RUN_WAITING)
		kappa_shmem_view_postpone(place->slot, KAPPA_REPLAYING_REASON, 0);
}

/* It works, perhaps again. */
static void
note_success(const KappaFillMember *member)
{
	const KappaFill *fill = member->share->fill;
	KappaViewPlace *place = find_place(fill);
	const char *event;

	if (place == NULL || (!place->failing && place->state != KAPPA_RUN_RETRYING))
		return;
	event = kappa_shmem_view_recovered(place->slot);
	kappa_shmem_view_postpone(place->slot, KAPPA_REPLAYING_REASON, 0);
	if (event == NULL)
		return;
	kappa_worker_begin();
	kappa_catalog_add_event(fill->view, event, fill->version, NULL, NULL);
	CommitTransactionCommand();
	MemoryContextSwitchTo(FillerContext);
}

/* Rows that the position does not speak of go. */
static void
forget_rows(const KappaFill *fill)
{
	KappaVersion *version = kappa_catalog_get_version(fill->view, fill->version);

	if (version != NULL && !version->live && !OidIsValid(fill->staging))
		kappa_definition_truncate(version->target);
}

/*
 * A worker shall read on from the position.  False if somebody else is about to
 * see to it.  Others may read for the version, too, and each of them has ranges
 * until the end of a stretch.
 */
static bool
give_up(const KappaFill *failed)
{
	KappaFill *fill;

	kappa_worker_begin();
	(void) set_config_option("lock_timeout", PATIENCE, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	fill = kappa_fill_lock(failed->view, failed->version);
	if (fill != NULL && fill->active)
	{
		kappa_fill_abandon(fill->view, fill->version);
		forget_rows(fill);
		kappa_definition_drop_relation(fill->staging, DROP_RESTRICT);
		kappa_shmem_wake_at_commit();
	}
	CommitTransactionCommand();
	return fill != NULL;
}

static void
handle_failure(const KappaFill *fill, const ErrorData *error)
{
	if (kappa_rebuild_error_may_pass(error->sqlerrcode))
		suspend(fill, error);
	else if (give_up(fill))
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("parallel replay of a view is given up: %s", error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 error->context ? errcontext("%s", error->context) : 0));
}

/* Whose part of the turn has failed; NULL: no one's in particular. */
static KappaFillMember *
find_failed(void)
{
	ListCell *lc;

	foreach(lc, members)
	{
		KappaFillMember *member = lfirst(lc);

		if (kappa_apply_current != NULL && member->applier == kappa_apply_current)
			return member;
	}
	return current;
}

/*
 * Of what was thrown; ends the process, but for what a reload of the view mends,
 * and what only concerns a version that came along.  What is no one's fault, and
 * may pass, is trouble for all of them.
 */
static FillResult
handle_error(const ErrorData *error, const KappaFillMember *failed)
{
	KappaFill own = { fill_view, fill_version };
	FillResult result = failed == NULL || is_own(failed) ? FILL_DONE : FILL_WAIT;
	ListCell *lc;

	AbortOutOfAnyTransaction();
	kappa_apply_current = NULL;
	if (error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE)
		result = FILL_WAIT;
	else if (failed != NULL)
		handle_failure(failed->share->fill, error);
	else if (members == NIL || !kappa_rebuild_error_may_pass(error->sqlerrcode))
		handle_failure(&own, error);
	else
		foreach(lc, members)
			suspend(((KappaFillMember *) lfirst(lc))->share->fill, error);
	members = NIL;
	return result;
}

static FillResult
attempt_turn(void)
{
	volatile FillResult result = FILL_DONE;
	ErrorData *volatile error = NULL;

	members = NIL;
	current = NULL;
	PG_TRY();
	{
		result = take_turn();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(FillerContext);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return error == NULL ? result : handle_error(error, find_failed());
}

/* ---- the process ---- */

static void
init_filler(void)
{
	KappaFillerArgument argument;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memcpy(&argument, MyBgworkerEntry->bgw_extra, sizeof(argument));
	fill_view = argument.view;
	fill_version = argument.version;
	stretch = Min(FIRST_STRETCH, Max(INT64CONST(4) * kappa_replay_min, 1));
	if (!kappa_shmem_attach_worker(&argument.id))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(argument.id.dbid, InvalidOid, 0);
	if (setpriority(PRIO_PROCESS, 0, REPLAY_NICENESS) != 0)
		elog(DEBUG1, "could not set the priority of a process: %m");
	kappa_worker_pin_settings();
	SetConfigOption("application_name", "kappa replay", PGC_USERSET, PGC_S_SESSION);
	kappa_kafka_keep();
	FillerContext = AllocSetContextCreate(TopMemoryContext, "kappa filler",
										  ALLOCSET_DEFAULT_SIZES);
}

/* The time that the last messages should have taken. */
static TimestampTz
get_next_start(TimestampTz start)
{
	if (kappa_replay_rate == 0)
		return 0;
	return start + messages_read * USECS_PER_SEC / kappa_replay_rate;
}

void
kappa_filler_main(Datum arg)
{
	uint32 wait_event;

	init_filler();
	wait_event = WaitEventExtensionNew("KappaFillerMain");
	for (;;)
	{
		TimestampTz start = GetCurrentTimestamp();
		TimestampTz until = 0;
		FillResult result;
		ListCell *lc;

		if (kappa_shmem_stopping())
			proc_exit(0);
		MemoryContextReset(FillerContext);
		MemoryContextSwitchTo(FillerContext);
		set_resources();
		result = attempt_turn();
		foreach(lc, members)
			note_success(lfirst(lc));
		if (result == FILL_DONE)
			proc_exit(0);
		if (result == FILL_MORE)
		{
			foreach(lc, members)
				count_stretch(lfirst(lc));
			kappa_shmem_announce_change();
			until = get_next_start(start);
		}
		else if (result == FILL_WAIT)
			until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), POLL_INTERVAL_MS);
		pgstat_report_activity(STATE_IDLE, NULL);
		pgstat_report_stat(false);
		do
			kappa_launcher_sleep(Max(until, 1), wait_event);
		while (result == FILL_MORE && until > GetCurrentTimestamp() && !kappa_shmem_stopping());
	}
}
