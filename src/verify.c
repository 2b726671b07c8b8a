/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  Compare a view with its query over the log
 *
 * One snapshot gives the rows of the view and the offsets up to which they
 * were made, so the view need not stand still.  The log is read once, between
 * these offsets, by the query that defines the view: as its owner, in a
 * security-restricted operation, under the version's settings, as messages are
 * applied.
 *
 * What cannot be compared is an error, and so is a difference that need not be
 * one: who reads a number must be able to trust it.
 *
 * IDENTIFICATION
 *	  src/verify.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "definition.h"
#include "deliver.h"
#include "fdw_options.h"
#include "fdw_scan.h"
#include "kafka_admin.h"
#include "kappa.h"
#include "verify_query.h"
#include "view_commands.h"

PG_FUNCTION_INFO_V1(kappa_sql_verify);
PG_FUNCTION_INFO_V1(kappa_sql_diff_view);

#define TYPE_FORMAT (FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY)

/* A view under verification; palloc'd in the context of the call. */
typedef struct Verification
{
	KappaView *view;
	KappaVersion *version;
	char *name; /* for messages */
	Query *definition;
	KappaShape *shape;
	KappaTable *table;
	char *query; /* over the bounded log */

	/* As the snapshot has them; start up to, not including, end. */
	int npartitions;
	int64 *start;
	int64 *end;
	List *gaps; /* of KappaGap */

	int64 differences; /* rows that differ, or lines about them */
	char *columns;     /* in which rows of the same key differ; NULL if in none */
} Verification;

/* ---- what is compared ---- */

/* The definition must be there, and mean what it meant: as before a worker applies messages. */
static void
check_definition(const Verification *v)
{
	KappaApplier *applier = kappa_apply_open(v->version->view, v->version->version);

	if (applier == NULL)
		elog(ERROR, "version %d of view \"%s\" is gone", v->version->version, v->name);
	kappa_apply_close(applier);
}

/*
 * Where the log is read between, as the active snapshot has it.  What was
 * passed over at either end is left out here, so that nobody asks the log for
 * it; other gaps are left to the scan.
 */
static void
load_position(Verification *v)
{
	KappaPosition *position = kappa_catalog_get_position_at(v->version->view, v->version->version,
															GetActiveSnapshot());
	ListCell *lc;

	if (position == NULL)
		elog(ERROR, "view \"%s\" has no position", v->name);
	v->npartitions = position->npartitions;
	v->start = position->start_offset;
	v->end = position->next_offset;
	v->gaps = kappa_catalog_list_gaps_at(v->version->view, v->version->version,
										 GetActiveSnapshot());
	for (int p = 0; p < v->npartitions; p++)
	{
		/* A partition of which nothing was read yet. */
		if (v->start[p] < 0 || v->end[p] < 0)
			v->start[p] = v->end[p] = 0;
	}
	foreach(lc, v->gaps)
	{
		KappaGap *gap = lfirst(lc);

		if (gap->part < v->npartitions && gap->from_offset <= v->start[gap->part])
			v->start[gap->part] = Max(v->start[gap->part],
									  Min(gap->to_offset, v->end[gap->part]));
	}
	for (int i = list_length(v->gaps) - 1; i >= 0; i--)
	{
		KappaGap *gap = list_nth(v->gaps, i);

		if (gap->part < v->npartitions && gap->to_offset >= v->end[gap->part])
			v->end[gap->part] = Min(v->end[gap->part],
									Max(gap->from_offset, v->start[gap->part]));
	}
}

/* ---- does the log have it? ---- */

static void
report_missing(const Verification *v, char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("view \"%s\" cannot be compared: topic \"%s\" does not have all messages that it was made from",
					v->name, v->table->topic),
			 errdetail("%s", detail),
			 errhint("To make the view one of what is left, call kappa.rebuild() with incomplete => true.")));
}

static void
check_partition(const Verification *v, int p, int n, const int64 *begin, const int64 *end)
{
	if (v->start[p] >= v->end[p])
		return;
	if (p >= n)
		report_missing(v, psprintf("The view has read partition %d, the topic has %d partitions.",
								   p, n));
	if (v->start[p] < begin[p])
		report_missing(v, psprintf("Partition %d begins at offset " INT64_FORMAT ", the view at offset " INT64_FORMAT ": " INT64_FORMAT " offsets are missing.",
								   p, begin[p], v->start[p], begin[p] - v->start[p]));
	if (v->end[p] > end[p])
		report_missing(v, psprintf("Partition %d ends at offset " INT64_FORMAT ", the view's next offset is " INT64_FORMAT ".",
								   p, end[p], v->end[p]));
}

/* Also asks for the number of partitions: a client that knows them answers sooner. */
static KafkaTopic *
open_topic(const Verification *v, KafkaClient **client, int *npartitions)
{
	KafkaTopic *topic;

	*client = kappa_kafka_open(kappa_options_get_connection(v->table->serverid, v->view->owner),
							   false);
	topic = kappa_kafka_topic(*client, v->table->topic);
	*npartitions = kappa_kafka_partition_count(topic, NULL);
	return topic;
}

static void
check_log(const Verification *v)
{
	KafkaClient *client;
	int n;
	KafkaTopic *topic = open_topic(v, &client, &n);
	int64 *begin = palloc(Max(n, 1) * sizeof(int64));
	int64 *end = palloc(Max(n, 1) * sizeof(int64));

	kappa_kafka_watermarks(topic, n, begin, end);
	for (int p = 0; p < v->npartitions; p++)
		check_partition(v, p, n, begin, end);
	kappa_kafka_close(client);
}

/* Everything up to the comparison itself; leaves a snapshot pushed. */
static Verification *
begin_verification(Oid relid)
{
	Verification *v = palloc0(sizeof(Verification));

	v->view = kappa_view_require_owned(relid, AccessShareLock);
	v->version = kappa_view_lock_live_version(relid);
	v->name = get_rel_name(relid);
	check_definition(v);
	v->definition = kappa_definition_get_query(v->version->definition);
	v->shape = kappa_analyze_query(v->definition, NULL, false);
	v->table = kappa_options_get_table(v->shape->scan->source);
	v->query = kappa_definition_get_bounded_query(v->definition, v->shape, v->version);

	PushActiveSnapshot(GetTransactionSnapshot());
	load_position(v);
	check_log(v);
	return v;
}

static void
end_verification(void)
{
	PopActiveSnapshot();
	kappa_fdw_unbind_bounds();
}

/* ---- comparing ---- */

static void
bind_bounds(const Verification *v)
{
	ListCell *lc;

	kappa_fdw_bind_bounds(v->table->relid, v->npartitions, v->start, v->end);
	foreach(lc, v->gaps)
	{
		KappaGap *gap = lfirst(lc);

		kappa_fdw_bind_gap(v->table->relid, gap->part, gap->from_offset, gap->to_offset);
	}
}

/*
 * The keys of a changelog with messages after the view's position: columns in
 * the order of shape->key, which is that of the foreign table's key columns.
 */
static char *
make_later_keys(const Verification *v)
{
	StringInfoData buf;
	ListCell *lc = list_head(v->shape->key);

	initStringInfo(&buf);
	for (int i = 0; i < v->table->ncolumns; i++)
	{
		KappaOutput *output;

		if (!v->table->columns[i].key)
			continue;
		output = list_nth(v->shape->outputs, lfirst_int(lc) - 1);
		appendStringInfo(&buf, "%s%s::%s", buf.len == 0 ? "SELECT " : ", ",
						 quote_identifier(v->table->columns[i].name),
						 format_type_extended(output->type, output->typmod, TYPE_FORMAT));
		lc = lnext(v->shape->key, lc);
	}
	appendStringInfo(&buf, " FROM %s AS %s", kappa_definition_relation_name(v->table->relid),
					 quote_identifier(KAPPA_LATER_ALIAS));
	return buf.data;
}

/* Which rows are compared; see check_compacted_events(). */
typedef enum KappaExtent
{
	KAPPA_ALL_ROWS,
	KAPPA_WITHOUT_LATER, /* not those of keys that have messages after the view's position */
	KAPPA_WITHOUT_EXTRA, /* nor those that the query does not have */
} KappaExtent;

/* Count the rows that differ; or, for diff_view, return them: so many lines at most. */
static void
compare(Verification *v, KappaExtent extent, ReturnSetInfo *rsinfo, int64 max_rows)
{
	KappaComparison comparison = {
		.shape = v->shape,
		.query = v->query,
		.table = kappa_definition_relation_name(v->version->target),
		.unknown_keys = extent == KAPPA_ALL_ROWS ? NULL : make_later_keys(v),
		.skip_extra = extent == KAPPA_WITHOUT_EXTRA,
	};

	bind_bounds(v);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (rsinfo != NULL)
	{
		char *sql = kappa_verify_rows_query(&comparison, max_rows);

		v->differences = kappa_definition_select_as_owner(v->view->owner, v->version->settings,
														  v->definition, sql, rsinfo);
	}
	else
	{
		bool isnull;
		char *columns;

		(void) kappa_definition_select_as_owner(v->view->owner, v->version->settings, v->definition,
												kappa_verify_count_query(&comparison), NULL);
		v->differences = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
													 SPI_tuptable->tupdesc, 1, &isnull));
		columns = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
		v->columns = columns == NULL ? NULL : strcpy(SPI_palloc(strlen(columns) + 1), columns);
	}
	SPI_finish();
}

/* ---- is a difference one? ---- */

static void
check_message(const Verification *v, const KappaLastMessage *last, const KappaMessage *message)
{
	int p = message->partition;

	if (message->offset != last->offset[p] ||
		(message->timestamp == last->timestamp[p] &&
		 kappa_deliver_checksum(message) == last->crc[p]))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the topic is not the one that view \"%s\" was built from", v->name),
			 errdetail("The message at offset " INT64_FORMAT " of partition %d of topic \"%s\" is not the one that the view has applied.",
					   message->offset, p, v->table->topic),
			 errhint("The topic was probably deleted and created again, or lost messages.  Rebuild the view with kappa.rebuild().")));
}

/*
 * A topic that was deleted and made again may be long enough to look like the
 * old one: read again messages that the view has applied.  One that does not
 * come says nothing.  All partitions at once: one after the other, each would
 * wait for the fetch of the one before.
 */
static void
check_same_topic(const Verification *v, KafkaClient *client, KafkaTopic *topic, int n)
{
	KappaLastMessage *last = kappa_catalog_get_last_messages(v->version->view,
															 v->version->version);
	Bitmapset *waiting = NULL;

	for (int p = 0; last != NULL && p < Min(last->npartitions, n); p++)
	{
		if (last->offset[p] < 0 || p >= v->npartitions || v->start[p] >= v->end[p])
			continue;
		kappa_kafka_start(topic, p, last->offset[p]);
		waiting = bms_add_member(waiting, p);
	}
	while (!bms_is_empty(waiting))
	{
		KappaMessage message;

		if (kappa_kafka_fetch(topic, &message, 1, 1, kappa_connect_timeout) == 0)
			break;
		if (bms_is_member(message.partition, waiting) && message.kind == KAPPA_MESSAGE_DATA)
			check_message(v, last, &message);
		if (message.partition >= 0)
		{
			waiting = bms_del_member(waiting, message.partition);
			kappa_kafka_stop(topic, message.partition);
		}
		kappa_kafka_release(client, &message, 1);
	}
}

/* Whether compaction leaves the messages that count: the last one, by offset, of each key. */
static bool
keeps_latest(const KappaTable *table)
{
	return table->changelog && table->key_order == KAPPA_KEY_ORDER_OFFSET;
}

/*
 * Compaction takes away messages that others of their key have followed, and
 * in the end those without a value, too.  Of events any one may be missing
 * then, and a difference says nothing.  Of a changelog by offset the latest
 * messages remain; how to compare it is told by the next two functions.
 */
static void
check_compacted_events(const Verification *v, KafkaTopic *topic, int elevel)
{
	int64 holes = kappa_fdw_count_holes(v->table->relid, false);

	if (keeps_latest(v->table) || holes <= 0 || kappa_kafka_is_compacted(topic) != 1)
		return;
	ereport(elevel,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("view \"%s\" cannot be compared: its topic \"%s\" is compacted",
					v->name, v->table->topic),
			 errdetail(INT64_FORMAT " of the offsets that the view has read have no message; those that the view was made from may be gone.",
					   holes),
			 v->table->changelog
				 ? errhint("Set the topic's cleanup.policy to delete: compaction keeps the message of a key that has the largest offset, and not the latest timestamp.")
				 : errhint("Set the topic's cleanup.policy to delete; or, if its messages replace each other by key, give the foreign table a key column.")));
}

/* May messages after the view's position have taken away those that it was made from? */
static bool
may_be_superseded(const Verification *v, KafkaTopic *topic)
{
	return keeps_latest(v->table) && kappa_fdw_count_holes(v->table->relid, false) > 0 &&
		   kappa_kafka_is_compacted(topic) != 0;
}

/*
 * Compare again without keys that have such messages.  If even of these some
 * are gone, a key without any message may be one that was deleted meanwhile.
 */
static void
compare_without_superseded(Verification *v, ReturnSetInfo *rsinfo, int64 max_rows)
{
	int64 holes;

	compare(v, KAPPA_WITHOUT_LATER, rsinfo, max_rows);
	holes = kappa_fdw_count_holes(v->table->relid, true);
	if (v->differences == 0 || holes <= 0)
		return;
	compare(v, KAPPA_WITHOUT_EXTRA, rsinfo, max_rows);
	ereport(WARNING,
			(errmsg("rows of view \"%s\" whose key has no message in the log were not compared", v->name),
			 errdetail("Topic \"%s\" is compacted: " INT64_FORMAT " offsets after the view's position have no message any more.",
					   v->table->topic, holes),
			 errhint("Let the view catch up with its log, and compare again.")));
}

static void
check_lookups(const Verification *v, int elevel)
{
	if (!v->shape->looks_up)
		return;
	ereport(elevel,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("rows of view \"%s\" differ from its query, but may be right", v->name),
			 errdetail("Each message was applied with what was there at that time: %s.",
					   v->shape->inexact),
			 errhint(elevel == ERROR ? "kappa.diff_view() lists the rows.  kappa.rebuild() brings the view up to what is there now."
									 : "kappa.rebuild() brings the view up to what is there now.")));
}

/* A difference was found: throw, or warn, if it need not be one, or look closer. */
static void
judge_difference(Verification *v, ReturnSetInfo *rsinfo, int64 max_rows)
{
	int elevel = rsinfo == NULL ? ERROR : WARNING;
	KafkaClient *client;
	int n;
	KafkaTopic *topic = open_topic(v, &client, &n);
	bool again;

	check_same_topic(v, client, topic, n);
	check_compacted_events(v, topic, elevel);
	again = may_be_superseded(v, topic);
	kappa_kafka_close(client);
	if (again)
		compare_without_superseded(v, rsinfo, max_rows);
	if (v->differences > 0)
		check_lookups(v, elevel);
}

/* What a number cannot say. */
static void
describe_difference(const Verification *v)
{
	ereport(NOTICE,
			(errmsg("view \"%s\" differs from its query in " INT64_FORMAT " rows",
					v->name, v->differences),
			 v->columns == NULL ? 0 : errdetail("Rows of the same key differ in: %s.", v->columns),
			 errhint("kappa.diff_view() lists them.")));
}

/* kappa.verify(view regclass) -> bigint */
Datum
kappa_sql_verify(PG_FUNCTION_ARGS)
{
	Verification *v = begin_verification(PG_GETARG_OID(0));

	compare(v, KAPPA_ALL_ROWS, NULL, 0);
	if (v->differences > 0)
		judge_difference(v, NULL, 0);
	end_verification();
	if (v->differences > 0)
		describe_difference(v);
	PG_RETURN_INT64(v->differences);
}

/*
 * kappa.diff_view(view regclass, max_rows bigint) -> setof (difference text,
 * copies bigint, columns text[], row json)
 */
Datum
kappa_sql_diff_view(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64 max_rows = PG_GETARG_INT64(1);
	Verification *v;

	if (max_rows < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rows must not be negative")));
	InitMaterializedSRF(fcinfo, 0);
	v = begin_verification(PG_GETARG_OID(0));
	compare(v, KAPPA_ALL_ROWS, rsinfo, max_rows);
	if (v->differences > 0)
		judge_difference(v, rsinfo, max_rows);
	end_verification();
	if (v->differences == max_rows && max_rows > 0)
		ereport(NOTICE,
				(errmsg("only the first " INT64_FORMAT " differences are listed", max_rows),
				 errhint("kappa.verify() counts the rows that differ; max_rows asks for more.")));
	return (Datum) 0;
}
