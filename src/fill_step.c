/*-------------------------------------------------------------------------
 *
 * fill_step.c
 *	  What a replay runs: the delta over a stretch, and the merge of all results
 *
 * As a rule a stretch is one query over a scan of the log: then it makes one row
 * for each group, however many messages there are.  Of a changelog in the order
 * of timestamps the rows have to say what their message's was, which a row of a
 * scan cannot; those of a batch in memory do (kappa.message_timestamp).  And the
 * executor pulls, so one scan cannot feed several queries; a batch can.  Then a
 * stretch is as many queries as there are batches of it, for each version.
 *
 * IDENTIFICATION
 *	  src/fill_step.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/timestamp.h"

#include "append.h"
#include "definition.h"
#include "fdw_scan.h"
#include "fill_step.h"
#include "load.h"
#include "view_fill.h"

static Query *
get_definition(const KappaApplier *applier)
{
	return kappa_definition_get_query(kappa_apply_get_version(applier)->definition);
}

static uint64
run_into(const KappaApplier *applier, const char *sql, DestReceiver *receiver)
{
	SPIExecuteOptions options = { .dest = receiver };
	int rc = SPI_execute_extended(sql, &options);

	if (rc < 0)
		elog(ERROR, "replay of view \"%s\" failed: %s", applier->name,
			 SPI_result_code_string(rc));
	return SPI_processed;
}

/* ---- a stretch of the log ---- */

typedef struct ReadStep
{
	KappaFillMember *member;
	const KappaStretch *stretch; /* to be scanned; or */
	KappaBatchTable *batch;      /* in memory */
	int nmessages;
	uint64 bytes;
} ReadStep;

static uint64
run_delta(const KappaApplier *applier, const ReadStep *step)
{
	Oid staging = step->member->share->fill->staging;
	const KappaVersion *version = kappa_apply_get_version(applier);
	Query *definition = get_definition(applier);
	KappaShape *shape = kappa_analyze_query(definition, NULL, false);
	char *delta = kappa_definition_get_stretch(definition, shape, version, step->batch != NULL);

	return run_into(applier, delta,
					kappa_append_create_receiver(OidIsValid(staging) ? staging
																	 : applier->target));
}

static uint64
read_log(KappaApplier *applier, void *arg)
{
	const ReadStep *step = arg;
	const KappaStretch *stretch = step->stretch;
	uint64 rows;

	kappa_fdw_bind_bounds(applier->relid, stretch->npartitions, stretch->start, stretch->end);
	kappa_fdw_number_messages(applier->relid);
	rows = run_delta(applier, step);
	kappa_fdw_count_read(applier->relid, &step->member->messages, &step->member->bytes);
	kappa_fdw_unbind_bounds();
	return rows;
}

static uint64
read_batch(KappaApplier *applier, void *arg)
{
	const ReadStep *step = arg;
	KappaBatchPart all = { .last = step->nmessages, .again = true };
	uint64 rows;

	kappa_batch_bind(step->batch, NULL, 0, &all);
	rows = run_delta(applier, step);
	kappa_batch_unbind_all();
	step->member->messages += step->nmessages;
	step->member->bytes += step->bytes;
	return rows;
}

static void
run_step(KappaFillMember *member, KappaApplyStep run, ReadStep *step)
{
	TimestampTz start = GetCurrentTimestamp();

	step->member = member;
	member->rows += kappa_apply_run(member->applier, run, step);
	member->time_taken += GetCurrentTimestamp() - start;
}

/* The columns that any of the versions reads. */
static Bitmapset *
collect_columns(const List *members)
{
	Bitmapset *columns = NULL;
	ListCell *lc;

	foreach(lc, members)
		columns = bms_add_members(columns, ((KappaFillMember *) lfirst(lc))->applier->columns);
	return columns;
}

/* Of keys and values. */
static uint64
count_bytes(const KappaBatch *batch)
{
	uint64 bytes = 0;

	for (int i = 0; i < batch->nmessages; i++)
		bytes += kappa_message_bytes(&batch->messages[i]);
	return bytes;
}

/* Each message is read and decoded once for all of them. */
static void
read_batches(const List *members, ReadStep *step)
{
	KappaApplier *first = ((KappaFillMember *) linitial(members))->applier;
	KappaTable *table = kappa_options_get_table(first->relid);
	Bitmapset *columns = collect_columns(members);
	bool with_headers = kappa_options_reads(table, columns, KAPPA_SOURCE_HEADERS);
	KappaFillReader *reader = kappa_fill_reader_open(table, first->owner, with_headers,
													 step->stretch);
	KappaBatch *batch;
	ListCell *lc;

	step->batch = kappa_batch_table_create(table, columns);
	while ((batch = kappa_fill_reader_next(reader)) != NULL)
	{
		kappa_batch_table_load(step->batch, batch);
		step->nmessages = batch->nmessages;
		step->bytes = count_bytes(batch);
		foreach(lc, members)
			run_step(lfirst(lc), read_batch, step);
	}
	kappa_fill_reader_close(reader);
}

void
kappa_fill_read(const List *members, const KappaStretch *stretch)
{
	KappaFillMember *first = linitial(members);
	ReadStep step = { .stretch = stretch };

	if (list_length(members) > 1 ||
		kappa_fill_needs_batches(kappa_analyze_query(get_definition(first->applier), NULL, false)))
		read_batches(members, &step);
	else
		run_step(first, read_log, &step);
}

/* ---- the end ---- */

/*
 * The tables are empty, so that rows need only be written, if nothing else wants
 * to hear of each of them.
 */
static uint64
merge_staging(KappaApplier *applier, void *arg)
{
	const KappaVersion *version = kappa_apply_get_version(applier);
	Query *definition = get_definition(applier);
	KappaFillStatements *statements;
	int rc;

	statements = kappa_definition_get_fill(definition, kappa_analyze_query(definition, NULL, false),
										   version, *(const Oid *) arg);
	if (statements->load != NULL && kappa_append_is_possible(applier->target))
		return run_into(applier, statements->load,
						kappa_load_create_receiver(applier->target, version->companion,
												   applier->live));
	rc = SPI_execute(statements->merge, false, 0);
	if (rc < 0)
		elog(ERROR, "merge of view \"%s\" failed: %s", applier->name,
			 SPI_result_code_string(rc));
	return SPI_processed;
}

void
kappa_fill_merge(KappaApplier *applier, const KappaFill *fill)
{
	Oid staging = fill->staging;

	(void) kappa_apply_run(applier, merge_staging, &staging);
}
