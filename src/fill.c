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
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "append.h"
#include "compat.h"
#include "definition.h"
#include "fault.h"
#include "fill.h"
#include "fill_run.h"
#include "fill_step.h"
#include "kappa.h"
#include "launcher.h"
#include "rebuild.h"
#include "rebuild_run.h"
#include "view_fill.h"
#include "worker.h"

/* A transaction should take about so long: locks and a cancelled rebuild wait for its end. */
#define STRETCH_MS 3000
#define FIRST_STRETCH 500000 /* messages */
#define MIN_STRETCH 1000

/* No range is cut into parts smaller than that, nor than what is worth a replay. */
#define MIN_RANGE 50000

/* Live views go first: niceness of the processes that replay. */
#define REPLAY_NICENESS 10

/* Between two looks at whether others have left something to do. */
#define POLL_INTERVAL_MS 500

typedef enum FillResult
{
	FILL_MORE, /* something was done */
	FILL_WAIT, /* others do what there is */
	FILL_DONE, /* there is nothing left to do here */
} FillResult;

static MemoryContext FillerContext;
static Oid fill_view;
static int32 fill_version;
static int64 stretch; /* messages for one transaction */

/* The last one. */
static int64 messages_read;
static uint64 rows_made;
static uint64 time_taken; /* us */

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

/* ---- handing over ---- */

/* Messages that are left; -1 if something has been applied already. */
static int64
count_left(const KappaApplier *applier, const int64 *end)
{
	int64 left = 0;

	for (int p = 0; p < applier->npartitions; p++)
	{
		if (applier->next_offset[p] != applier->start_offset[p])
			return -1;
		left += end[p] - applier->next_offset[p];
	}
	return left;
}

/* Into how many ranges each partition is cut, so that there is work for all. */
static int
choose_pieces(const KappaApplier *applier, const int64 *end)
{
	int nparts = 0;

	for (int p = 0; p < applier->npartitions; p++)
		nparts += end[p] > applier->next_offset[p];
	return (2 * kappa_rebuild_workers + nparts - 1) / Max(nparts, 1);
}

/*
 * Whether the rows are where people read them: then the position has to say at
 * all times which messages they are of.  It can, if each partition is read from
 * its start on.
 */
static bool
is_read(const KappaApplier *applier, Oid staging)
{
	return applier->live && !OidIsValid(staging);
}

static void
insert_ranges(const KappaApplier *applier, const int64 *end, int pieces)
{
	int64 min = Min(MIN_RANGE, Max(kappa_replay_min, 1));

	for (int p = 0; p < applier->npartitions; p++)
	{
		int64 start = applier->next_offset[p];
		int64 size = Max((end[p] - start + pieces - 1) / pieces, min);

		for (; start < end[p]; start += size)
		{
			KappaFillRange range = { p, start, start, Min(start + size, end[p]) };

			kappa_fill_insert_range(applier->view, applier->version, &range);
		}
	}
}

static Oid
create_staging(const KappaApplier *applier, const KappaShape *shape)
{
	Oid namespace = get_rel_namespace(applier->view);
	KappaOwnerScope scope;
	Oid staging;

	kappa_definition_enter_owner(&scope, applier->owner,
								 kappa_apply_get_version(applier)->settings);
	staging = kappa_definition_create_state_table(kappa_plan_staging_ddl, shape, namespace,
												  get_rel_name(applier->view),
												  psprintf("v%d_staging", applier->version));
	kappa_definition_depend(staging, applier->view);
	kappa_definition_leave_owner(&scope);
	return staging;
}

/* Nobody has moved the position since the applier was opened, nor does now. */
static bool
lock_position(const KappaApplier *applier)
{
	KappaPosition *position;

	(void) kappa_catalog_lock_view(applier->view);
	position = kappa_catalog_get_position(applier->view, applier->version);
	for (int p = 0; position != NULL && p < position->npartitions; p++)
		if (position->next_offset[p] >= 0 &&
			position->next_offset[p] != applier->next_offset[p])
			return false;
	return position != NULL;
}

bool
kappa_fill_begin(KappaApplier *applier, const int64 *end)
{
	KappaFill *fill = kappa_fill_get(applier->view, applier->version);
	Oid staging = InvalidOid;
	Query *definition;
	KappaShape *shape;
	bool staged;

	if (fill != NULL)
		return fill->active;
	if (kappa_replay_min < 0 || count_left(applier, end) < Max(kappa_replay_min, 1))
		return false;
	definition = kappa_definition_get_query(kappa_apply_get_version(applier)->definition);
	shape = kappa_analyze_query(definition, NULL, false);
	staged = kappa_fill_needs_staging(shape);
	if (!kappa_fill_is_possible(shape) ||
		(!staged && !kappa_append_is_possible(applier->target)) || !lock_position(applier))
		return false;

	/* From here on the position says what was a symbolic start. */
	kappa_apply_store_position(applier, applier->next_offset);
	if (staged)
		staging = create_staging(applier, shape);
	kappa_fill_insert(applier->view, applier->version, staging);
	insert_ranges(applier, end, is_read(applier, staging) ? 1 : choose_pieces(applier, end));
	KAPPA_FAULT(REPLAY_PLANNED, applier->view);
	return true;
}

/* ---- a stretch of the log ---- */

/* Take the next part of each range, all together no more than a stretch. */
static KappaStretch *
choose_stretch(const KappaApplier *applier, List *ranges)
{
	KappaStretch *next = palloc0(sizeof(KappaStretch));
	int64 share = Max(stretch / list_length(ranges), 1);
	ListCell *lc;

	next->npartitions = applier->npartitions;
	next->start = palloc0(Max(applier->npartitions, 1) * sizeof(int64));
	next->end = palloc0(Max(applier->npartitions, 1) * sizeof(int64));
	foreach(lc, ranges)
	{
		KappaFillRange *range = lfirst(lc);

		next->start[range->part] = range->next_offset;
		range->next_offset = Min(range->next_offset + share, range->end_offset);
		next->end[range->part] = range->next_offset;
		next->messages += range->next_offset - next->start[range->part];
	}
	return next;
}

static void
store_ranges(const KappaApplier *applier, const KappaFill *fill, List *ranges)
{
	ListCell *lc;

	foreach(lc, ranges)
	{
		KappaFillRange *range = lfirst(lc);

		kappa_fill_advance(fill->view, fill->version, range);
		if (is_read(applier, fill->staging))
			kappa_fill_move_position(fill->view, fill->version, range->part,
									 range->next_offset);
	}
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
replay_stretch(KappaApplier *applier, const KappaFill *fill, List *ranges)
{
	TimestampTz start = GetCurrentTimestamp();
	KappaStretch *next = choose_stretch(applier, ranges);

	rows_made = kappa_fill_read(applier, fill, next);
	messages_read = next->messages;
	time_taken = GetCurrentTimestamp() - start;
	store_ranges(applier, fill, ranges);
	KAPPA_FAULT(REPLAY_STRETCHED, fill_view);
	if (!applier->live)
		kappa_rebuild_run_add_messages(fill->view, fill->version, messages_read);
	adapt_stretch(start);
}

/* ---- the end ---- */

/* All ranges are done: make a version of what there is. */
static void
finish(KappaApplier *applier, KappaFill *fill)
{
	int64 *next = palloc(Max(applier->npartitions, 1) * sizeof(int64));
	KappaFillProgress progress;

	KAPPA_FAULT(REPLAY_MERGING, fill_view);
	kappa_fill_get_progress(fill->view, fill->version, &progress);
	kappa_catalog_add_event(fill->view, "replayed", fill->version, NULL,
							psprintf(INT64_FORMAT " messages", progress.messages));
	if (!is_read(applier, fill->staging))
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
		kappa_definition_analyze_table(applier->target);
	}
	kappa_fill_delete(fill->view, fill->version);
	kappa_definition_drop_relation(fill->staging, DROP_RESTRICT);
	KAPPA_FAULT(REPLAY_MERGED, fill_view);
	kappa_shmem_wake_at_commit();
}

/* ---- a turn ---- */

static bool
is_runnable(void)
{
	ListCell *lc;

	foreach(lc, kappa_catalog_list_runnable())
	{
		KappaVersion *version = lfirst(lc);

		if (version->view == fill_view && version->version == fill_version)
			return true;
	}
	return false;
}

/* How many ranges to take at once: the fewer queries, the fewer partial results. */
static int
choose_share(const KappaFillProgress *progress)
{
	return progress->split ? 1 : Max(progress->nopen / kappa_rebuild_workers, 1);
}

static FillResult
take_turn_in_transaction(void)
{
	KappaFill *fill = is_runnable() ? kappa_fill_get(fill_view, fill_version) : NULL;
	KappaFillProgress progress;
	KappaApplier *applier;
	List *ranges = NIL;
	bool finished;

	if (fill == NULL || !fill->active)
		return FILL_DONE;
	kappa_fill_get_progress(fill_view, fill_version, &progress);
	finished = progress.nopen == 0;
	if (finished)
		fill = kappa_fill_lock(fill_view, fill_version);
	else
		ranges = kappa_fill_claim(fill_view, fill_version, choose_share(&progress));
	if (finished ? fill == NULL : ranges == NIL)
		return FILL_WAIT;

	if (!finished)
		KAPPA_FAULT(REPLAY_CLAIMED, fill_view);
	PushActiveSnapshot(GetTransactionSnapshot());
	applier = kappa_apply_open(fill_view, fill_version);
	PopActiveSnapshot();
	if (applier == NULL)
		return FILL_DONE;
	if (finished)
		finish(applier, fill);
	else
		replay_stretch(applier, fill, ranges);
	kappa_apply_close(applier);
	return finished ? FILL_DONE : FILL_MORE;
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
find_place(void)
{
	KappaViewPlace *places;
	int n = kappa_shmem_get_places(&places);

	for (int i = 0; i < n; i++)
		if (places[i].view == fill_view && places[i].version == fill_version)
			return &places[i];
	return NULL;
}

/* Show the view as retrying; the supervisor starts processes again when it is time. */
static void
suspend(const ErrorData *error)
{
	KappaViewPlace *place = find_place();
	bool first = place != NULL &&
				 kappa_shmem_view_suspend(place->slot, error->sqlerrcode, error->message, 0);

	if (!first)
		return;
	kappa_worker_begin();
	kappa_catalog_add_event(fill_view, "failed", fill_version,
							unpack_sql_state(error->sqlerrcode), error->message);
	CommitTransactionCommand();
}

/* A stretch was committed: count it.  It works, perhaps again. */
static void
note_success(void)
{
	KappaViewPlace *place = find_place();
	KappaCounters *counters;
	const char *event;

	if (place == NULL)
		return;
	counters = kappa_shmem_view_counters(place->slot);
	pg_atomic_fetch_add_u64(&counters->messages, messages_read);
	pg_atomic_fetch_add_u64(&counters->rows, rows_made);
	pg_atomic_fetch_add_u64(&counters->batches, 1);
	pg_atomic_fetch_add_u64(&counters->apply_us, time_taken);
	if (place->state != KAPPA_RUN_RETRYING)
		return;
	event = kappa_shmem_view_recovered(place->slot);
	kappa_shmem_view_postpone(place->slot, KAPPA_REPLAYING_REASON, 0);
	if (event == NULL)
		return;
	kappa_worker_begin();
	kappa_catalog_add_event(fill_view, event, fill_version, NULL, NULL);
	CommitTransactionCommand();
}

/* Rows that the position does not speak of go. */
static void
forget_rows(const KappaFill *fill)
{
	KappaVersion *version = kappa_catalog_get_version(fill->view, fill->version);

	if (version != NULL && !version->live && !OidIsValid(fill->staging))
		kappa_definition_truncate(version->target);
}

/* A worker shall read on from the position.  False if somebody else is about to see to it. */
static bool
give_up(void)
{
	KappaFill *fill;

	kappa_worker_begin();
	fill = kappa_fill_lock(fill_view, fill_version);
	if (fill != NULL && fill->active)
	{
		kappa_fill_abandon(fill_view, fill_version);
		forget_rows(fill);
		kappa_definition_drop_relation(fill->staging, DROP_RESTRICT);
		kappa_shmem_wake_at_commit();
	}
	CommitTransactionCommand();
	return fill != NULL;
}

/* Of what was thrown; ends the process, but for what a reload of the view mends. */
static FillResult
handle_error(ErrorData *error)
{
	AbortOutOfAnyTransaction();
	kappa_apply_current = NULL;
	if (error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE)
		return FILL_WAIT;
	if (kappa_rebuild_error_may_pass(error->sqlerrcode))
		suspend(error);
	else if (give_up())
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("parallel replay of a view is given up: %s", error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 error->context ? errcontext("%s", error->context) : 0));
	return FILL_DONE;
}

static FillResult
attempt_turn(void)
{
	volatile FillResult result = FILL_DONE;
	ErrorData *volatile error = NULL;

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
	return error == NULL ? result : handle_error(error);
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

		if (kappa_shmem_stopping())
			proc_exit(0);
		MemoryContextReset(FillerContext);
		MemoryContextSwitchTo(FillerContext);
		set_resources();
		result = attempt_turn();
		if (result == FILL_DONE)
			proc_exit(0);
		if (result == FILL_MORE)
		{
			note_success();
			kappa_shmem_announce_change();
			until = get_next_start(start);
		}
		else
			until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), POLL_INTERVAL_MS);
		pgstat_report_activity(STATE_IDLE, NULL);
		pgstat_report_stat(false);
		do
			kappa_launcher_sleep(Max(until, 1), wait_event);
		while (result == FILL_MORE && until > GetCurrentTimestamp() && !kappa_shmem_stopping());
	}
}
