/*-------------------------------------------------------------------------
 *
 * fdw_scan.c
 *	  Execution of scans of foreign tables
 *
 * A scan of the log asks for the ends of all partitions when it begins, and
 * reads up to there, so that it ends while messages keep arriving.  The
 * connection is made when the first row is wanted.
 *
 * In a parallel scan the leader asks, makes the list of ranges and puts it
 * into shared memory; every process connects for itself and takes ranges from
 * that list.  All of them together read one state of the log.
 *
 * IDENTIFICATION
 *	  src/fdw_scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "batch.h"
#include "decode.h"
#include "executor/executor.h"
#include "fdw_bounds.h"
#include "fdw_changelog.h"
#include "fdw_estimate.h"
#include "fdw_reader.h"
#include "fdw_scan.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* Ranges shorter than this are not shared between processes. */
#define MIN_SHARED_RANGE 250000

/* A column that the scan returns, and where the decoder puts it. */
typedef struct ScanColumn
{
	AttrNumber attnum;
	int cell;
} ScanColumn;

typedef struct KappaScan
{
	MemoryContext context; /* of the whole scan; its reset closes everything */
	KappaScanPlan plan;
	KappaTable *table;
	Oid userid;
	List *restrictions; /* KappaRestriction, ready to be evaluated */
	bool rewind;

	KappaBatchCursor *cursor; /* in batch mode; all below is unused then */

	KappaDecoder *decoder;
	int ncolumns;
	ScanColumn *columns;
	Datum *values; /* cells of the decoder */
	uint8 *states;

	KappaReader *reader; /* NULL until the first row is wanted */
	KappaLog *log;       /* what there is to read, fixed for the whole scan */
	bool started;        /* the reader has been given its ranges */
	bool shared;         /* the queue lies in shared memory */
	KappaRangeQueue *queue;
	int64 *base; /* by partition, for ctid */

	KappaChangelog *changelog;

	/* Of queues that are gone. */
	uint64 messages;
	uint64 bytes;
	uint64 returned;
	uint64 returned_bytes;
} KappaScan;

/* ---- beginning ---- */

static void
create_decoder(KappaScan *scan)
{
	Bitmapset *columns = bms_copy(scan->plan.columns);
	int attnum = -1;

	for (int i = 0; i < scan->table->ncolumns; i++)
	{
		if (scan->table->columns[i].key)
			columns = bms_add_member(columns, i + 1);
	}
	scan->decoder = kappa_decoder_create(scan->table, columns);

	scan->columns = palloc(Max(bms_num_members(columns), 1) * sizeof(ScanColumn));
	while ((attnum = bms_next_member(scan->plan.columns, attnum)) >= 0)
	{
		ScanColumn *column = &scan->columns[scan->ncolumns++];

		column->attnum = attnum;
		column->cell = kappa_decoder_cell(scan->decoder, attnum);
		Assert(column->cell >= 0);
	}
	scan->values = palloc(Max(kappa_decoder_ncells(scan->decoder), 1) * sizeof(Datum));
	scan->states = palloc(Max(kappa_decoder_ncells(scan->decoder), 1));
}

static void
init_restrictions(KappaScan *scan, ForeignScanState *node)
{
	Index varno = ((ForeignScan *) node->ss.ps.plan)->scan.scanrelid;
	ListCell *lc;

	foreach(lc, scan->plan.restrictions)
	{
		KappaRestriction *restriction = kappa_restriction_create(lfirst(lc),
																 scan->table,
																 varno);

		if (restriction == NULL)
			elog(ERROR, "clause does not restrict foreign table \"%s\"",
				 scan->table->name);
		kappa_restriction_init(restriction, &node->ss.ps);
		scan->restrictions = lappend(scan->restrictions, restriction);
	}
}

void
kappaBeginForeignScan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	MemoryContext context;
	MemoryContext old;
	KappaScan *scan;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	context = AllocSetContextCreate(CurrentMemoryContext, "kappa scan",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	scan = palloc0(sizeof(KappaScan));
	scan->context = context;
	node->fdw_state = scan;

	kappa_scan_load_plan(plan, &scan->plan);
	scan->table = kappa_options_get_table(RelationGetRelid(node->ss.ss_currentRelation));
	kappa_options_check_server(scan->table);
	scan->userid = OidIsValid(scan->plan.userid) ? scan->plan.userid : GetUserId();
	scan->rewind = (eflags & EXEC_FLAG_REWIND) != 0;

	if (scan->plan.mode == KAPPA_SCAN_BATCH)
		scan->cursor = kappa_batch_open(scan->table->relid, scan->plan.columns);
	else
	{
		create_decoder(scan);
		init_restrictions(scan, node);
		if (scan->table->changelog && scan->plan.mode != KAPPA_SCAN_LATER)
			scan->changelog = kappa_changelog_create(scan->table, scan->decoder,
													 scan->plan.key_clauses,
													 &node->ss, scan->rewind,
													 scan->plan.mode == KAPPA_SCAN_STRETCH);
	}
	MemoryContextSwitchTo(old);
}

/* ---- what to read ---- */

static KappaLog *
copy_log(const KappaLog *log, int32 npartitions)
{
	KappaLog *copy = palloc(sizeof(KappaLog));

	copy->npartitions = npartitions;
	copy->begin = palloc(Max(npartitions, 1) * sizeof(int64));
	copy->end = palloc(Max(npartitions, 1) * sizeof(int64));
	memcpy(copy->begin, log->begin, npartitions * sizeof(int64));
	memcpy(copy->end, log->end, npartitions * sizeof(int64));
	return copy;
}

/* Connect, unless that was done.  Called in the scan's context. */
static void
ensure_reader(KappaScan *scan)
{
	Assert(CurrentMemoryContext == scan->context);

	if (scan->reader == NULL)
		scan->reader = kappa_reader_open(scan->table,
										 kappa_options_get_connection(scan->table->serverid,
																	  scan->userid),
										 kappa_options_reads(scan->table, scan->plan.columns,
															 KAPPA_SOURCE_HEADERS));
}

/*
 * Find out what there is to read.  Once for a scan: when it is repeated, it
 * sees the same log.
 */
static void
ensure_log(KappaScan *scan)
{
	KappaLog *log;

	ensure_reader(scan);
	if (scan->log != NULL)
		return;

	log = kappa_reader_get_log(scan->reader);
	kappa_estimate_remember(scan->table, scan->userid, log);
	if (kappa_scan_is_bounded(scan->plan.mode))
	{
		const KappaLog *bounds = kappa_bounds_get(scan->table->relid);

		kappa_reader_check_bounds(scan->reader, bounds, log);
		log = copy_log(bounds, Min(bounds->npartitions, log->npartitions));
	}
	else if (scan->plan.mode == KAPPA_SCAN_LATER)
	{
		const KappaLog *bounds = kappa_bounds_get(scan->table->relid);

		for (int32 i = 0; i < Min(bounds->npartitions, log->npartitions); i++)
			log->begin[i] = Max(log->begin[i], bounds->end[i]);
	}
	scan->log = log;
}

/*
 * Cut long ranges into pieces, so that several processes can share them.  The
 * array is palloc'd anew.
 */
static int
split_ranges(const KappaRange *ranges, int n, int nprocesses,
			 KappaRange **pieces)
{
	int64 total = 0;
	int64 size;
	int npieces = 0;

	for (int i = 0; i < n; i++)
		total += ranges[i].end - ranges[i].start;
	size = Max(total / (nprocesses * 4), MIN_SHARED_RANGE);

	*pieces = palloc((n + total / size + 1) * sizeof(KappaRange));
	for (int i = 0; i < n; i++)
	{
		int64 length = ranges[i].end - ranges[i].start;
		int64 count = Max(length / size, 1);

		for (int64 j = 0; j < count; j++)
		{
			KappaRange *piece = &(*pieces)[npieces++];

			*piece = ranges[i];
			piece->start = ranges[i].start + length / count * j;
			if (j < count - 1)
				piece->end = ranges[i].start + length / count * (j + 1);
		}
	}
	return npieces;
}

/*
 * Put ranges into a queue: the first of each partition, then the second of
 * each, and so on.  A process can read only one range of a partition at a
 * time.  The ranges are sorted by partition.
 */
static void
fill_queue(KappaRangeQueue *queue, const KappaRange *ranges, int n)
{
	int *rank = palloc(Max(n, 1) * sizeof(int));
	int last_rank = 0;

	queue->nranges = 0;
	queue->npartitions = n > 0 ? ranges[n - 1].partition + 1 : 0;
	for (int i = 0; i < n; i++)
	{
		bool same = i > 0 && ranges[i].partition == ranges[i - 1].partition;

		rank[i] = same ? rank[i - 1] + 1 : 0;
		last_rank = Max(last_rank, rank[i]);
	}
	for (int r = 0; r <= last_rank; r++)
	{
		for (int i = 0; i < n; i++)
		{
			if (rank[i] == r)
				queue->ranges[queue->nranges++] = ranges[i];
		}
	}
	pg_atomic_write_u32(&queue->next, 0);
	pfree(rank);
}

/* One range for each partition, if there are more than the queue can take. */
static int
fit_ranges(KappaRange *ranges, int n, int capacity)
{
	int kept = 0;

	if (n <= capacity)
		return n;
	for (int i = 0; i < n; i++)
	{
		if (kept > 0 && ranges[kept - 1].partition == ranges[i].partition)
			ranges[kept - 1].end = ranges[i].end;
		else
			ranges[kept++] = ranges[i];
	}
	return kept;
}

/* Ranges of the log that the restrictions leave, as of now; palloc'd. */
static int
resolve_ranges(KappaScan *scan, ForeignScanState *node, KappaRange **ranges)
{
	int n;

	ensure_log(scan);
	n = kappa_ranges_resolve(scan->restrictions, node->ss.ps.ps_ExprContext,
							 kappa_reader_topic(scan->reader), scan->log,
							 ranges);
	if (kappa_scan_is_bounded(scan->plan.mode))
		n = kappa_bounds_cut_gaps(scan->table->relid, ranges, n);
	return n;
}

/* Take over the counters of a queue that is about to go. */
static void
collect_counters(KappaScan *scan)
{
	if (scan->queue == NULL)
		return;
	scan->messages += pg_atomic_exchange_u64(&scan->queue->messages, 0);
	scan->bytes += pg_atomic_exchange_u64(&scan->queue->bytes, 0);
	scan->returned += pg_atomic_exchange_u64(&scan->queue->returned, 0);
	scan->returned_bytes += pg_atomic_exchange_u64(&scan->queue->returned_bytes, 0);
}

/* Make the queue of a scan that is not parallel. */
static void
create_own_queue(KappaScan *scan, ForeignScanState *node)
{
	KappaRange *ranges;
	int n = resolve_ranges(scan, node, &ranges);

	collect_counters(scan);
	if (scan->queue == NULL || scan->queue->capacity < n)
	{
		if (scan->queue != NULL)
			pfree(scan->queue);
		scan->queue = palloc(KAPPA_RANGE_QUEUE_SIZE(n));
		kappa_range_queue_init(scan->queue, n, 1);
	}
	fill_queue(scan->queue, ranges, n);
	pfree(ranges);
}

static void
remember_bases(KappaScan *scan)
{
	KappaRangeQueue *queue = scan->queue;

	if (!scan->plan.need_ctid)
		return;
	if (scan->base != NULL)
		pfree(scan->base);
	scan->base = palloc(Max(queue->npartitions, 1) * sizeof(int64));
	for (int i = 0; i < queue->nranges; i++)
		scan->base[queue->ranges[i].partition] = queue->ranges[i].base;
}

/* Begin to read, before the first row and after a rescan. */
static void
start_scan(KappaScan *scan, ForeignScanState *node)
{
	MemoryContext old = MemoryContextSwitchTo(scan->context);

	ensure_reader(scan);
	if (!scan->shared)
		create_own_queue(scan, node);
	remember_bases(scan);
	kappa_reader_start(scan->reader, scan->queue);
	if (scan->changelog != NULL)
		kappa_changelog_load(scan->changelog, scan->reader);
	scan->started = true;
	MemoryContextSwitchTo(old);
}

/* ---- rows ---- */

/*
 * ctid: block number from the offset, item number from the partition, with a
 * mark if there is no value.
 */
static void
set_ctid(const KappaScan *scan, const KappaMessage *message,
		 TupleTableSlot *slot)
{
	int64 block = message->offset - scan->base[message->partition];

	if (block >= (int64) InvalidBlockNumber ||
		message->partition > KAPPA_TID_MAX_PARTITION)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("message has no ctid"),
				 errdetail("Offset " INT64_FORMAT " of partition %d of topic \"%s\" is too far from the start of the scan, or the partition's number is too large.",
						   message->offset, message->partition,
						   scan->table->topic)));
	ItemPointerSet(&slot->tts_tid, (BlockNumber) block,
				   (message->partition + 1) | (message->value == NULL ? KAPPA_TID_TOMBSTONE : 0));
}

/*
 * Turn a message into the row in slot.  Values are made in the caller's
 * memory context, or point into the message.
 */
static void
store_message(KappaScan *scan, const KappaMessage *message, TupleTableSlot *slot)
{
	KappaMalformed malformed;

	if (unlikely(!kappa_decode_message(scan->decoder, message, scan->values,
									   scan->states, &malformed)))
		kappa_decode_report_malformed(scan->decoder, message, &malformed);

	memset(slot->tts_isnull, true,
		   slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < scan->ncolumns; i++)
	{
		int cell = scan->columns[i].cell;
		int column = scan->columns[i].attnum - 1;

		switch ((KappaCellState) scan->states[cell])
		{
			case KAPPA_CELL_NULL:
				break;
			case KAPPA_CELL_VALUE:
				slot->tts_values[column] = scan->values[cell];
				slot->tts_isnull[column] = false;
				break;
			case KAPPA_CELL_DEFERRED:
				slot->tts_values[column] =
					kappa_decode_cell(scan->decoder, cell, message,
									  scan->values[cell], scan->states[cell],
									  &slot->tts_isnull[column]);
				break;
		}
	}
	ExecStoreVirtualTuple(slot);
	if (scan->plan.need_ctid)
		set_ctid(scan, message, slot);
}

TupleTableSlot *
kappaIterateForeignScan(ForeignScanState *node)
{
	KappaScan *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	const KappaMessage *message;

	if (scan->cursor != NULL)
	{
		(void) kappa_batch_next(scan->cursor, slot);
		return slot;
	}

	ExecClearTuple(slot);
	if (!scan->started)
		start_scan(scan, node);
	message = scan->changelog != NULL ? kappa_changelog_next(scan->changelog)
									  : kappa_reader_next(scan->reader);
	if (message != NULL)
		store_message(scan, message, slot);
	return slot;
}

void
kappaReScanForeignScan(ForeignScanState *node)
{
	KappaScan *scan = node->fdw_state;

	if (scan->cursor != NULL)
		kappa_batch_rewind(scan->cursor);
	else if (node->ss.ps.chgParam == NULL && scan->started &&
			 scan->changelog != NULL &&
			 kappa_changelog_can_rewind(scan->changelog))
		kappa_changelog_rewind(scan->changelog);
	else
		scan->started = false;
}

/* Tell whoever has bound the bounds what was read of them. */
static void
tell_counters(KappaScan *scan)
{
	bool later = scan->plan.mode == KAPPA_SCAN_LATER;
	double offsets = 0;

	if ((!kappa_scan_is_bounded(scan->plan.mode) && !later) || scan->log == NULL)
		return;
	collect_counters(scan);
	if (later)
		for (int32 i = 0; i < scan->log->npartitions; i++)
			offsets += scan->log->end[i] - scan->log->begin[i];
	else
		offsets = kappa_fdw_bound_rows(scan->table->relid);
	kappa_bounds_count(scan->table->relid, later, Max(offsets, 0), scan->returned,
					   scan->returned_bytes);
}

void
kappaEndForeignScan(ForeignScanState *node)
{
	KappaScan *scan = node->fdw_state;

	if (scan == NULL)
		return;
	if (!IsParallelWorker())
		tell_counters(scan);
	if (scan->changelog != NULL)
		kappa_changelog_clear(scan->changelog);
	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	MemoryContextDelete(scan->context);
	node->fdw_state = NULL;
}

/* ---- parallel scans ---- */

/*
 * The leader has to know the ranges here already, since their number decides
 * how much shared memory they need.  When the scan is repeated with other
 * parameters there may be more; then they are made coarser (fit_ranges).
 */
Size
kappaEstimateDSMForeignScan(ForeignScanState *node, ParallelContext *pcxt)
{
	KappaScan *scan = node->fdw_state;
	MemoryContext old = MemoryContextSwitchTo(scan->context);
	KappaRange *ranges;
	KappaRange *pieces;
	int n = resolve_ranges(scan, node, &ranges);
	int npieces = split_ranges(ranges, n, pcxt->nworkers + 1, &pieces);
	int capacity = Max(npieces, scan->log->npartitions);

	scan->queue = palloc(KAPPA_RANGE_QUEUE_SIZE(capacity));
	kappa_range_queue_init(scan->queue, capacity, pcxt->nworkers + 1);
	fill_queue(scan->queue, pieces, npieces);
	pfree(pieces);
	pfree(ranges);
	MemoryContextSwitchTo(old);
	return KAPPA_RANGE_QUEUE_SIZE(capacity);
}

void
kappaInitializeDSMForeignScan(ForeignScanState *node, ParallelContext *pcxt,
							  void *coordinate)
{
	KappaScan *scan = node->fdw_state;
	KappaRangeQueue *own = scan->queue;
	KappaRangeQueue *queue = coordinate;

	kappa_range_queue_init(queue, own->capacity, own->nprocesses);
	queue->npartitions = own->npartitions;
	queue->nranges = own->nranges;
	memcpy(queue->ranges, own->ranges, own->nranges * sizeof(KappaRange));

	pfree(own);
	scan->queue = queue;
	scan->shared = true;
	scan->started = false;
}

void
kappaReInitializeDSMForeignScan(ForeignScanState *node, ParallelContext *pcxt,
								void *coordinate)
{
	KappaScan *scan = node->fdw_state;
	KappaRangeQueue *queue = coordinate;
	MemoryContext old = MemoryContextSwitchTo(scan->context);
	KappaRange *ranges;
	KappaRange *pieces;
	int n = resolve_ranges(scan, node, &ranges);
	int npieces = split_ranges(ranges, n, queue->nprocesses, &pieces);

	fill_queue(queue, pieces, fit_ranges(pieces, npieces, queue->capacity));
	scan->started = false;
	pfree(pieces);
	pfree(ranges);
	MemoryContextSwitchTo(old);
}

void
kappaInitializeWorkerForeignScan(ForeignScanState *node, shm_toc *toc,
								 void *coordinate)
{
	KappaScan *scan = node->fdw_state;

	scan->queue = coordinate;
	scan->shared = true;
}

/*
 * No more rows are wanted, and shared memory is about to go.  A rescan makes
 * all of it again.
 */
void
kappaShutdownForeignScan(ForeignScanState *node)
{
	KappaScan *scan = node->fdw_state;

	if (scan == NULL || !scan->shared)
		return;
	if (!IsParallelWorker())
		collect_counters(scan);
	scan->queue = NULL;
	scan->shared = false;
	scan->started = false;
}

void
kappa_scan_get_counters(ForeignScanState *node, uint64 *messages, uint64 *bytes)
{
	KappaScan *scan = node->fdw_state;

	collect_counters(scan);
	*messages = scan->messages;
	*bytes = scan->bytes;
}
