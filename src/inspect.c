/*-------------------------------------------------------------------------
 *
 * inspect.c
 *	  What SQL can see of kappa's processes
 *
 * The functions that read shared memory return what there is, without looking
 * at permissions: views in schema kappa join them with the catalog.  On a
 * server without kappa in shared_preload_libraries, and on a standby, there is
 * nothing.
 *
 * IDENTIFICATION
 *	  src/inspect.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "fdw_options.h"
#include "inspect.h"
#include "kafka_admin.h"
#include "kafka_client.h"
#include "kappa.h"
#include "shmem.h"
#include "view_commands.h"

/* Between two looks at a position that is replicated to this server. */
#define STANDBY_INTERVAL_MS 20

#define MAX_TIMEOUT_MS (INT64CONST(10) * 366 * 24 * 3600 * 1000)

PG_FUNCTION_INFO_V1(kappa_sql_run_status);
PG_FUNCTION_INFO_V1(kappa_sql_waiting_reason);
PG_FUNCTION_INFO_V1(kappa_sql_log_status);
PG_FUNCTION_INFO_V1(kappa_sql_wait_for);

/* ---- states and counters ---- */

/* A view that waits for its turn is behind; one that was put off has failed. */
static const char *
describe_state(const KappaViewStatus *status)
{
	switch (status->state)
	{
		case KAPPA_RUN_CATCHING_UP:
			return "catching up";
		case KAPPA_RUN_RUNNING:
			return "running";
		case KAPPA_RUN_WAITING:
			return status->retry_at == 0 ? "catching up" : "retrying";
		case KAPPA_RUN_RETRYING:
			break;
	}
	return "retrying";
}

static void
put_status(ReturnSetInfo *rsinfo, const KappaViewStatus *status)
{
	Datum values[16];
	bool nulls[16] = { 0 };
	int i = 0;

	values[i++] = ObjectIdGetDatum(status->view);
	values[i++] = Int32GetDatum(status->version);
	values[i++] = CStringGetTextDatum(describe_state(status));
	nulls[i] = status->reason[0] == '\0';
	values[i++] = CStringGetTextDatum(status->reason);
	values[i++] = TimestampTzGetDatum(status->since);
	nulls[i] = status->sqlstate == 0;
	values[i++] = CStringGetTextDatum(unpack_sql_state(status->sqlstate));
	nulls[i] = status->retry_at == 0;
	values[i++] = TimestampTzGetDatum(status->retry_at);
	nulls[i] = status->worker_pid == 0;
	values[i++] = Int32GetDatum(status->worker_pid);
	values[i++] = Int64GetDatum(status->messages);
	values[i++] = Int64GetDatum(status->bytes);
	values[i++] = Int64GetDatum(status->rows);
	values[i++] = Int64GetDatum(status->batches);
	values[i++] = Int64GetDatum(status->restarts);
	values[i++] = Float8GetDatum(status->fetch_us / 1000.0);
	values[i++] = Float8GetDatum(status->apply_us / 1000.0);
	values[i++] = Float8GetDatum(status->commit_us / 1000.0);
	Assert(i == lengthof(values));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * kappa.run_status() -> setof (view oid, version int, state text, reason text,
 * since timestamptz, sqlstate text, retry_at timestamptz, worker_pid int,
 * messages bigint, bytes bigint, rows bigint, batches bigint, restarts bigint,
 * fetch_time float8, apply_time float8, commit_time float8), times in ms
 */
Datum
kappa_sql_run_status(PG_FUNCTION_ARGS)
{
	KappaViewStatus *statuses;
	int n;

	InitMaterializedSRF(fcinfo, 0);
	n = kappa_shmem_get_views(&statuses);
	for (int i = 0; i < n; i++)
		put_status((ReturnSetInfo *) fcinfo->resultinfo, &statuses[i]);
	return (Datum) 0;
}

/* kappa.waiting_reason() -> text */
Datum
kappa_sql_waiting_reason(PG_FUNCTION_ARGS)
{
	const char *reason = "waiting for the supervisor of this database; if that lasts, max_worker_processes may be too small";

	if (!kappa_shmem_available())
		reason = "kappa is not in shared_preload_libraries";
	else if (!kappa_shmem_has_view_slot())
		reason = "waiting for a slot for views; kappa.max_views is too small";
	PG_RETURN_TEXT_P(cstring_to_text(reason));
}

/* Kafka's timestamps count milliseconds since 1970. */
static TimestampTz
from_unix_ms(int64 ms)
{
	return (ms - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * INT64CONST(86400000)) * 1000;
}

/*
 * kappa.log_status(view oid, version int) -> setof (part int, end_offset bigint,
 * last_message_at timestamptz)
 */
Datum
kappa_sql_log_status(PG_FUNCTION_ARGS)
{
	KappaLogStatus *status = kappa_shmem_get_log(PG_GETARG_OID(0), PG_GETARG_INT32(1));
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int p = 0; status != NULL && p < status->npartitions; p++)
	{
		Datum values[3];
		bool nulls[3] = { false, status->end_offset[p] < 0, status->last_message_at[p] < 0 };

		values[0] = Int32GetDatum(p);
		values[1] = Int64GetDatum(status->end_offset[p]);
		values[2] = TimestampTzGetDatum(from_unix_ms(status->last_message_at[p]));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- waiting ---- */

/*
 * Whether the running statement is "SELECT f(constants)" of this very call,
 * and no cursor is open that could hold another snapshot.
 */
static bool
is_only_call(FunctionCallInfo fcinfo)
{
	Portal portal = ActivePortal;
	PlannedStmt *stmt;
	TargetEntry *target;

	if (portal == NULL || portal->queryDesc == NULL || !ActiveSnapshotSet() ||
		GetActiveSnapshot() != portal->queryDesc->snapshot ||
		!ThereAreNoReadyPortals())
		return false;
	stmt = portal->queryDesc->plannedstmt;
	/* Its relationOids say nothing: a constant of type regclass is among them. */
	if (stmt->commandType != CMD_SELECT || stmt->subplans != NIL ||
		!IsA(stmt->planTree, Result) || outerPlan(stmt->planTree) != NULL ||
		list_length(stmt->planTree->targetlist) != 1)
		return false;
	target = linitial_node(TargetEntry, stmt->planTree->targetlist);
	return IsA(target->expr, FuncExpr) &&
		   castNode(FuncExpr, target->expr)->funcid == fcinfo->flinfo->fn_oid;
}

void
kappa_inspect_release_snapshot(FunctionCallInfo fcinfo)
{
	if (!is_only_call(fcinfo))
		return;

	/*
	 * The snapshot stays registered, but is not announced any more: vacuum may
	 * remove rows that it could see.  The next snapshot that is taken or
	 * dropped announces again what is needed then.
	 */
	InvalidateCatalogSnapshot();
	MyProc->xmin = InvalidTransactionId;
}

int64
kappa_inspect_timeout(FunctionCallInfo fcinfo, int argument)
{
	Interval *interval = PG_GETARG_INTERVAL_P(argument);
	double ms = interval->time / 1000.0 +
				(interval->day + interval->month * (double) DAYS_PER_MONTH) * SECS_PER_DAY * 1000.0;

	return (int64) Min(Max(ms, 0), MAX_TIMEOUT_MS);
}

/* Throws unless the relation is a view of kappa that others can see, too. */
static KappaView *
get_view_to_wait_for(Oid relid)
{
	KappaView *view = kappa_catalog_get_view(relid);
	Relation rel;

	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a view of kappa", get_rel_name(relid))));

	rel = relation_open(relid, AccessShareLock);
	if (rel->rd_createSubid != InvalidSubTransactionId)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for a view that was created in the same transaction")));
	relation_close(rel, AccessShareLock);
	return view;
}

/* Ends of the log as the invoker sees them; for a server without workers. */
static int64 *
ask_ends(KappaView *view, int *npartitions)
{
	KappaVersion *version = kappa_catalog_get_version(view->view, view->version);
	KappaTable *table;
	KafkaClient *client;
	KafkaTopic *topic;
	int64 *ends;

	if (version == NULL || !OidIsValid(version->source))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("definition of view \"%s\" was dropped", get_rel_name(view->view))));
	table = kappa_options_get_table(version->source);
	client = kappa_kafka_open(kappa_options_get_connection(table->serverid, GetUserId()),
							  false);
	topic = kappa_kafka_topic(client, table->topic);
	*npartitions = kappa_kafka_partition_count(topic);
	ends = palloc(Max(*npartitions, 1) * sizeof(int64));
	kappa_kafka_watermarks(topic, *npartitions, NULL, ends);
	kappa_kafka_close(client);
	return ends;
}

static bool
has_reached(KappaView *view, const int64 *ends, int npartitions)
{
	KappaPosition *position;
	bool reached = true;

	PushActiveSnapshot(GetTransactionSnapshot());
	position = kappa_catalog_get_position(view->view, view->version);
	PopActiveSnapshot();
	for (int p = 0; p < npartitions && reached; p++)
	{
		bool known = position != NULL && p < position->npartitions;

		reached = (known ? position->next_offset[p] : 0) >= ends[p];
	}
	return reached;
}

/*
 * On a standby the position comes with the WAL, and nobody can be asked to
 * tell: so look for it now and then.  A snapshot that is held meanwhile could
 * be in the way of that very WAL.
 */
static bool
wait_on_standby(FunctionCallInfo fcinfo, KappaView *view, int64 timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "kappa wait",
												  ALLOCSET_SMALL_SIZES);
	int npartitions;
	int64 *ends = ask_ends(view, &npartitions);
	bool reached;

	for (;;)
	{
		MemoryContext old = MemoryContextSwitchTo(scratch);

		reached = has_reached(view, ends, npartitions);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
		if (reached || GetCurrentTimestamp() >= deadline)
			break;
		kappa_inspect_release_snapshot(fcinfo);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STANDBY_INTERVAL_MS, WaitEventExtensionNew("KappaWaitFor"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextDelete(scratch);
	return reached;
}

/* kappa.wait_for(view regclass, timeout interval) -> boolean */
Datum
kappa_sql_wait_for(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	int64 timeout_ms = kappa_inspect_timeout(fcinfo, 1);
	KappaView *view;

	/* Its snapshot would not show what was applied meanwhile. */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("kappa.wait_for() cannot be used in a transaction with isolation level %s",
						XactIsoLevel == XACT_SERIALIZABLE ? "SERIALIZABLE" : "REPEATABLE READ"),
				 errhint("Use isolation level READ COMMITTED.")));

	view = get_view_to_wait_for(relid);
	if (RecoveryInProgress())
		PG_RETURN_BOOL(wait_on_standby(fcinfo, view, timeout_ms));
	kappa_view_require_preload();
	kappa_inspect_release_snapshot(fcinfo);
	PG_RETURN_BOOL(kappa_shmem_wait_applied(relid, timeout_ms));
}
