/*-------------------------------------------------------------------------
 *
 * fdw.c
 *	  Planning of scans of foreign tables, and EXPLAIN
 *
 * Every condition of a query is checked by the executor, whatever is pushed
 * down: what happens here only decides how much of the log is read.
 *
 * Foreign tables are read-only; PostgreSQL refuses to write for us.
 *
 * IDENTIFICATION
 *	  src/fdw.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/stratnum.h"
#include "access/sysattr.h"
#include "batch.h"
#include "commands/explain.h"
#include "compat.h"
#include "fdw.h"
#include "fdw_estimate.h"
#include "fdw_scan.h"
#include "foreign/fdwapi.h"
#include "kappa.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(kappa_sql_fdw_handler);

/* Messages of a topic that nobody could be asked about. */
#define DEFAULT_MESSAGES 100000

/* Connecting, asking for the ends of the log, and the first messages. */
#define STARTUP_COST 100.0

/*
 * A message costs about as much as five rows of a table in memory, and each
 * column that is made of it a little more.  In units of cpu_tuple_cost and
 * cpu_operator_cost.
 */
#define MESSAGE_COST 5.0
#define COLUMN_COST 4.0

/* A parallel worker for this many messages; another for three times as many. */
#define MESSAGES_PER_WORKER 100000

/* RelOptInfo.fdw_private while a scan is planned. */
typedef struct KappaRelInfo
{
	KappaTable *table;
	KappaScanPlan plan;
	double messages; /* that will be read */
} KappaRelInfo;

/* ---- what a scan needs ---- */

static KappaScanMode
scan_mode(const RangeTblEntry *rte)
{
	if (rte->alias == NULL)
		return KAPPA_SCAN_LOG;
	if (strcmp(rte->alias->aliasname, KAPPA_BATCH_ALIAS) == 0)
		return KAPPA_SCAN_BATCH;
	if (strcmp(rte->alias->aliasname, KAPPA_BOUNDED_ALIAS) == 0)
		return KAPPA_SCAN_BOUNDED;
	if (strcmp(rte->alias->aliasname, KAPPA_STRETCH_ALIAS) == 0)
		return KAPPA_SCAN_STRETCH;
	if (strcmp(rte->alias->aliasname, KAPPA_LATER_ALIAS) == 0)
		return KAPPA_SCAN_LATER;
	return KAPPA_SCAN_LOG;
}

/* Attribute numbers of the columns that the query uses. */
static void
find_needed_columns(KappaRelInfo *info, RelOptInfo *baserel)
{
	Bitmapset *used = NULL;
	bool whole_row;
	ListCell *lc;

	pull_varattnos((Node *) baserel->reltarget->exprs, baserel->relid, &used);
	foreach(lc, baserel->baserestrictinfo)
		pull_varattnos((Node *) lfirst_node(RestrictInfo, lc)->clause,
					   baserel->relid, &used);

	whole_row = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used);
	for (int i = 0; i < info->table->ncolumns; i++)
	{
		AttrNumber attnum = i + 1;

		if (info->table->columns[i].source == KAPPA_SOURCE_DROPPED)
			continue;
		if (whole_row ||
			bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, used))
			info->plan.columns = bms_add_member(info->plan.columns, attnum);
	}
	info->plan.need_ctid =
		bms_is_member(SelfItemPointerAttributeNumber - FirstLowInvalidHeapAttributeNumber,
					  used);
}

/*
 * Is this "key column = constant", by the same equality that makes two keys
 * one?  Only then do all messages of a key agree on it.
 */
static bool
is_key_clause(Expr *clause, const KappaTable *table, Index varno)
{
	OpExpr *op = (OpExpr *) clause;
	Node *left;
	Node *right;
	Var *var;
	const KappaColumn *column;
	TypeCacheEntry *type;

	if (!IsA(clause, OpExpr) || list_length(op->args) != 2)
		return false;

	left = linitial(op->args);
	right = lsecond(op->args);
	if (IsA(right, Var))
	{
		Node *swap = left;

		left = right;
		right = swap;
	}
	if (IsA(left, RelabelType))
		left = (Node *) ((RelabelType *) left)->arg;
	if (!IsA(left, Var))
		return false;

	var = (Var *) left;
	if (var->varno != varno || var->varattno <= 0)
		return false;
	column = &table->columns[var->varattno - 1];
	type = lookup_type_cache(column->type, TYPECACHE_BTREE_OPFAMILY);
	return column->key &&
		   get_op_opfamily_strategy(op->opno, type->btree_opf) == BTEqualStrategyNumber &&
		   op->inputcollid == var->varcollid &&
		   !contain_var_clause(right) &&
		   !contain_volatile_functions(right) &&
		   !contain_subplans(right);
}

/* Where a query's conditions go, for the estimates. */
typedef struct KappaConditions
{
	List *restrictions; /* KappaRestriction, ready for estimates */
	List *uncounted;    /* RestrictInfo that narrow the log in an unknown way */
	List *others;       /* RestrictInfo that only filter */
} KappaConditions;

/*
 * Sort the conditions by what they can do for a scan.  A restriction whose
 * ranges can be computed now is counted by them and needs no selectivity.
 */
static void
sort_conditions(KappaRelInfo *info, PlannerInfo *root, RelOptInfo *baserel,
				const KappaLog *log, KappaConditions *conditions)
{
	ListCell *lc;

	memset(conditions, 0, sizeof(KappaConditions));
	foreach(lc, baserel->baserestrictinfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		KappaRestriction *restriction;

		if (info->table->changelog &&
			is_key_clause(rinfo->clause, info->table, baserel->relid))
			info->plan.key_clauses = lappend(info->plan.key_clauses,
											 rinfo->clause);

		restriction = kappa_restriction_create(rinfo->clause, info->table,
											   baserel->relid);
		if (restriction == NULL)
		{
			conditions->others = lappend(conditions->others, rinfo);
			continue;
		}
		info->plan.restrictions = lappend(info->plan.restrictions,
										  rinfo->clause);
		kappa_restriction_init_estimate(restriction, root);
		conditions->restrictions = lappend(conditions->restrictions,
										   restriction);
		if (log == NULL || !kappa_restriction_is_exact(restriction))
			conditions->uncounted = lappend(conditions->uncounted, rinfo);
	}
}

/* Messages that a scan of the log will read. */
static double
estimate_messages(const KappaRelInfo *info, PlannerInfo *root,
				  const KappaLog *log, const KappaConditions *conditions)
{
	KappaRange *ranges;
	double messages = DEFAULT_MESSAGES;
	int n;

	if (kappa_scan_is_bounded(info->plan.mode) &&
		kappa_fdw_bound_rows(info->table->relid) >= 0)
		messages = kappa_fdw_bound_rows(info->table->relid);
	else if (log != NULL)
	{
		messages = 0;
		n = kappa_ranges_resolve(conditions->restrictions, NULL, NULL, log,
								 &ranges);
		for (int i = 0; i < n; i++)
			messages += ranges[i].end - ranges[i].start;
	}
	return messages * clauselist_selectivity(root, conditions->uncounted, 0,
											 JOIN_INNER, NULL);
}

/*
 * Whether brokers may be asked about a topic.  The executor looks at
 * permissions when a query has been planned; but who may not run it shall not
 * make the server connect anywhere, with anybody's credentials.
 */
static bool
may_ask(const KappaTable *table, PlannerInfo *root)
{
	for (; root != NULL; root = root->parent_root)
	{
		if (!kappa_may_run_query(root->parse))
			return false;
	}
	return kappa_options_may_use_server(table);
}

static void
kappaGetForeignRelSize(PlannerInfo *root, RelOptInfo *baserel,
					   Oid foreigntableid)
{
	KappaRelInfo *info = palloc0(sizeof(KappaRelInfo));
	const KappaLog *log = NULL;
	KappaConditions conditions;

	baserel->fdw_private = info;
	info->table = kappa_options_get_table(foreigntableid);
	info->plan.mode = scan_mode(planner_rt_fetch(baserel->relid, root));
	info->plan.userid = baserel->userid;
	find_needed_columns(info, baserel);

	if (info->plan.mode == KAPPA_SCAN_BATCH)
	{
		info->messages = kappa_batch_bound_rows(foreigntableid);
		if (info->messages < 0)
			info->messages = DEFAULT_MESSAGES;
		conditions.others = baserel->baserestrictinfo;
	}
	else
	{
		if (info->plan.mode == KAPPA_SCAN_LOG && may_ask(info->table, root))
			log = kappa_estimate_log(info->table,
									 OidIsValid(baserel->userid) ? baserel->userid
																 : GetUserId());
		sort_conditions(info, root, baserel, log, &conditions);
		info->messages = estimate_messages(info, root, log, &conditions);
	}

	baserel->tuples = info->messages;
	set_baserel_size_estimates(root, baserel);
	baserel->rows = clamp_row_est(info->messages *
								  clauselist_selectivity(root, conditions.others,
														 0, JOIN_INNER, NULL));
}

/* ---- paths ---- */

/* Cost of a message and of the row that it becomes, conditions included. */
static double
cost_of_message(const KappaRelInfo *info, RelOptInfo *baserel)
{
	double cost = baserel->baserestrictcost.per_tuple;

	if (info->plan.mode == KAPPA_SCAN_BATCH)
		cost += cpu_tuple_cost;
	else
		cost += MESSAGE_COST * cpu_tuple_cost;
	cost += COLUMN_COST * cpu_operator_cost * bms_num_members(info->plan.columns);

	/* A changelog is sorted. */
	if (info->table->changelog && info->plan.mode != KAPPA_SCAN_BATCH)
		cost += 2.0 * cpu_operator_cost * log2(Max(info->messages, 2.0));
	return cost;
}

/* Workers by the length of the log, as core does it for tables. */
static int
choose_workers(const KappaRelInfo *info)
{
	double messages = info->messages;
	int workers = 0;

	while (messages >= MESSAGES_PER_WORKER &&
		   workers < max_parallel_workers_per_gather)
	{
		workers++;
		messages /= 3;
	}

	/* Who sets this to 0 wants to see parallel plans. */
	if (workers == 0 && min_parallel_table_scan_size == 0)
		workers = Min(1, max_parallel_workers_per_gather);
	return workers;
}

static void
add_parallel_path(PlannerInfo *root, RelOptInfo *baserel, double startup_cost,
				  double run_cost)
{
	KappaRelInfo *info = baserel->fdw_private;
	int workers = choose_workers(info);
	double divisor = workers;
	ForeignPath *path;

	if (workers == 0)
		return;

	/* The leader takes part, less so when it has many workers to serve. */
	if (parallel_leader_participation)
		divisor += Max(1.0 - 0.3 * workers, 0.0);

	path = kappa_create_foreignscan_path(root, baserel,
										 clamp_row_est(baserel->rows / divisor),
										 startup_cost,
										 startup_cost + run_cost / divisor);
	path->path.parallel_aware = true;
	path->path.parallel_safe = true;
	path->path.parallel_workers = workers;
	add_partial_path(baserel, &path->path);
}

static void
kappaGetForeignPaths(PlannerInfo *root, RelOptInfo *baserel, Oid foreigntableid)
{
	KappaRelInfo *info = baserel->fdw_private;
	double startup_cost = baserel->baserestrictcost.startup +
						  baserel->reltarget->cost.startup;
	double run_cost = info->messages * cost_of_message(info, baserel) +
					  baserel->rows * baserel->reltarget->cost.per_tuple;
	ForeignPath *path;

	if (info->plan.mode != KAPPA_SCAN_BATCH)
		startup_cost += STARTUP_COST;

	/* A changelog has read everything before its first row. */
	if (info->plan.mode != KAPPA_SCAN_BATCH && info->table->changelog)
	{
		startup_cost += run_cost;
		run_cost = baserel->rows * cpu_tuple_cost;
	}

	path = kappa_create_foreignscan_path(root, baserel, baserel->rows, startup_cost,
										 startup_cost + run_cost);

	/*
	 * Only the leader knows the bounds.  A worker may have a share of a scan
	 * that the leader has begun, but not all of one to itself.
	 */
	if (kappa_scan_is_bounded(info->plan.mode) || info->plan.mode == KAPPA_SCAN_LATER)
		path->path.parallel_safe = false;
	add_path(baserel, (Path *) path);
	if (baserel->consider_parallel && baserel->lateral_relids == NULL)
		add_parallel_path(root, baserel, startup_cost, run_cost);
}

static ForeignScan *
kappaGetForeignPlan(PlannerInfo *root, RelOptInfo *baserel, Oid foreigntableid,
					ForeignPath *best_path, List *tlist, List *scan_clauses,
					Plan *outer_plan)
{
	KappaRelInfo *info = baserel->fdw_private;
	List *fdw_private;
	List *fdw_exprs;

	kappa_scan_store_plan(&info->plan, &fdw_private, &fdw_exprs);
	return make_foreignscan(tlist, extract_actual_clauses(scan_clauses, false),
							baserel->relid, fdw_exprs, fdw_private, NIL, NIL,
							outer_plan);
}

/*
 * A batch, and the messages of a changelog, are in one process.
 */
static bool
kappaIsForeignScanParallelSafe(PlannerInfo *root, RelOptInfo *rel,
							   RangeTblEntry *rte)
{
	return scan_mode(rte) != KAPPA_SCAN_BATCH &&
		   !kappa_options_get_table(rte->relid)->changelog;
}

/* ---- EXPLAIN ---- */

/* Show those restrictions that speak about just these columns. */
static void
explain_restrictions(const char *label, int columns, const KappaScanPlan *plan,
					 const KappaTable *table, ForeignScanState *node,
					 ExplainState *es)
{
	ForeignScan *scan = (ForeignScan *) node->ss.ps.plan;
	List *context = set_deparse_context_plan(es->deparse_cxt, &scan->scan.plan,
											 NIL);
	bool qualify = list_length(es->rtable) > 1 || es->verbose;
	List *shown = NIL;
	ListCell *lc;

	foreach(lc, plan->restrictions)
	{
		KappaRestriction *restriction = kappa_restriction_create(lfirst(lc), table,
																 scan->scan.scanrelid);

		if (restriction != NULL &&
			kappa_restriction_columns(restriction) == columns)
			shown = lappend(shown, lfirst(lc));
	}
	if (shown != NIL)
		ExplainPropertyText(label,
							deparse_expression((Node *) make_ands_explicit(shown),
											   context, qualify, false),
							es);
}

static void
explain_key_clauses(const KappaScanPlan *plan, ForeignScanState *node,
					ExplainState *es)
{
	List *context = set_deparse_context_plan(es->deparse_cxt, node->ss.ps.plan,
											 NIL);
	bool qualify = list_length(es->rtable) > 1 || es->verbose;

	if (plan->key_clauses != NIL)
		ExplainPropertyText("Keys",
							deparse_expression((Node *) make_ands_explicit(plan->key_clauses),
											   context, qualify, false),
							es);
}

static void
kappaExplainForeignScan(ForeignScanState *node, ExplainState *es)
{
	static const struct
	{
		const char *label;
		int columns;
	} kinds[] = {
		{ "Partitions", KAPPA_RESTRICTS_PARTITION },
		{ "Offsets", KAPPA_RESTRICTS_OFFSET },
		{ "Timestamps", KAPPA_RESTRICTS_TIMESTAMP },
		{ "Partitions and Offsets", KAPPA_RESTRICTS_PARTITION | KAPPA_RESTRICTS_OFFSET },
		{ "Partitions and Timestamps", KAPPA_RESTRICTS_PARTITION | KAPPA_RESTRICTS_TIMESTAMP },
		{ "Offsets and Timestamps", KAPPA_RESTRICTS_OFFSET | KAPPA_RESTRICTS_TIMESTAMP },
		{ "Partitions, Offsets and Timestamps",
		  KAPPA_RESTRICTS_PARTITION | KAPPA_RESTRICTS_OFFSET | KAPPA_RESTRICTS_TIMESTAMP },
	};
	KappaTable *table = kappa_options_get_table(RelationGetRelid(node->ss.ss_currentRelation));
	KappaScanPlan plan;

	kappa_scan_load_plan((ForeignScan *) node->ss.ps.plan, &plan);
	ExplainPropertyText("Topic", table->topic, es);
	if (plan.mode == KAPPA_SCAN_BATCH)
		ExplainPropertyText("Reads", "batch", es);
	else if (kappa_scan_is_bounded(plan.mode))
		ExplainPropertyText("Reads", "bound offsets", es);
	else if (plan.mode == KAPPA_SCAN_LATER)
		ExplainPropertyText("Reads", "messages after bound offsets", es);
	else if (table->changelog)
		ExplainPropertyText("Reads", "latest message per key", es);

	for (int i = 0; i < lengthof(kinds); i++)
		explain_restrictions(kinds[i].label, kinds[i].columns, &plan, table,
							 node, es);
	explain_key_clauses(&plan, node, es);

	if (es->analyze && plan.mode != KAPPA_SCAN_BATCH)
	{
		uint64 messages;
		uint64 bytes;

		kappa_scan_get_counters(node, &messages, &bytes);
		ExplainPropertyInteger("Messages Read", NULL, messages, es);
		ExplainPropertyInteger("Bytes Read", "bytes", bytes, es);
	}
}

/* ---- handler ---- */

Datum
kappa_sql_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = kappaGetForeignRelSize;
	routine->GetForeignPaths = kappaGetForeignPaths;
	routine->GetForeignPlan = kappaGetForeignPlan;
	routine->BeginForeignScan = kappaBeginForeignScan;
	routine->IterateForeignScan = kappaIterateForeignScan;
	routine->ReScanForeignScan = kappaReScanForeignScan;
	routine->EndForeignScan = kappaEndForeignScan;
	routine->ExplainForeignScan = kappaExplainForeignScan;

	routine->IsForeignScanParallelSafe = kappaIsForeignScanParallelSafe;
	routine->EstimateDSMForeignScan = kappaEstimateDSMForeignScan;
	routine->InitializeDSMForeignScan = kappaInitializeDSMForeignScan;
	routine->ReInitializeDSMForeignScan = kappaReInitializeDSMForeignScan;
	routine->InitializeWorkerForeignScan = kappaInitializeWorkerForeignScan;
	routine->ShutdownForeignScan = kappaShutdownForeignScan;

	PG_RETURN_POINTER(routine);
}
