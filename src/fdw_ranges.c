/*-------------------------------------------------------------------------
 *
 * fdw_ranges.c
 *	  From conditions on partition, offset and timestamp to ranges of the log
 *
 * A clause becomes a tree of AND, OR and comparisons of one of these columns
 * with an expression that is constant during a scan.  Evaluated, a tree is a
 * set of boxes, each an interval of partitions, an interval of offsets and a
 * least timestamp; a message that satisfies the clause is in one of them.
 * Whatever cannot be said with a box is left out, which makes the set larger
 * and is harmless: the executor checks every clause again.
 *
 * A timestamp can only be a lower bound.  Producers set timestamps, so they
 * need not grow with the offset; Kafka answers with the first offset at or
 * after which a timestamp is as late as asked for, and everything before it is
 * earlier.  Nothing of the kind holds for an upper bound: a message with a
 * small timestamp may come at any later offset.
 *
 * Over a changelog only lower bounds may be used at all: the latest message of
 * a key must not be hidden by the end of a range.  If it is the one of the
 * largest timestamp, offsets say nothing of it: what they leave out may be later
 * than what they leave.
 *
 * IDENTIFICATION
 *	  src/fdw_ranges.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_type_d.h"
#include "executor/executor.h"
#include "fdw_ranges.h"
#include "kafka_admin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* More boxes than this are not worth the trouble of planning the reads. */
#define MAX_BOXES 1024

/* Each distinct timestamp costs a question to the brokers. */
#define MAX_TIMESTAMPS 8

/* Reading on through a gap of so many messages beats seeking past it. */
#define MIN_GAP 1000

typedef enum RestrictionKind
{
	RESTRICTION_AND,
	RESTRICTION_OR,
	RESTRICTION_COMPARE,
} RestrictionKind;

struct KappaRestriction
{
	RestrictionKind kind;
	bool lossy; /* a part of the clause had to be left out */
	List *args; /* of AND and OR */

	/* a comparison: column, operator, value */
	KappaColumnSource source;
	StrategyNumber strategy;
	bool array; /* = ANY (value) */
	Oid type;   /* of the value, or of its elements */
	Expr *value;
	ExprState *state; /* in the executor */
	Const *constant;  /* in the planner, if known */
};

/* Bounds are inclusive. */
typedef struct Box
{
	int64 first_partition;
	int64 last_partition;
	int64 first_offset;
	int64 last_offset;
	int64 timestamp; /* ms since 1970; PG_INT64_MIN if there is no bound */
} Box;

typedef struct BoxSet
{
	int n;
	Box boxes[MAX_BOXES];
} BoxSet;

static const Box everything = {
	0, PG_INT32_MAX, 0, PG_INT64_MAX, PG_INT64_MIN
};

/* ---- making restrictions ---- */

/* The column that an expression is, if it is one to restrict by. */
static const KappaColumn *
match_column(Node *node, const KappaTable *table, Index varno)
{
	const KappaColumn *column;
	Var *var;
	Oid type;

	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (!IsA(node, Var))
		return NULL;

	var = (Var *) node;
	if (var->varno != varno || var->varlevelsup != 0 || var->varattno <= 0)
		return NULL;

	column = &table->columns[var->varattno - 1];
	type = getBaseType(column->type);
	switch (column->source)
	{
		case KAPPA_SOURCE_PARTITION:
		case KAPPA_SOURCE_OFFSET:
			if (type == INT2OID || type == INT4OID || type == INT8OID)
				return column;
			return NULL;
		case KAPPA_SOURCE_TIMESTAMP:
			return type == TIMESTAMPTZOID ? column : NULL;
		default:
			return NULL;
	}
}

/* Constant while a scan runs, and safe to evaluate once more. */
static bool
is_scan_constant(Node *node)
{
	return !contain_var_clause(node) &&
		   !contain_volatile_functions(node) &&
		   !contain_subplans(node);
}

/*
 * What remains of a comparison's operator for this table; InvalidStrategy if
 * nothing does.
 */
static StrategyNumber
usable_strategy(const KappaTable *table, KappaColumnSource source,
				StrategyNumber strategy)
{
	bool lower = strategy == BTGreaterStrategyNumber ||
				 strategy == BTGreaterEqualStrategyNumber;

	if (source == KAPPA_SOURCE_TIMESTAMP)
	{
		if (lower || strategy == BTEqualStrategyNumber)
			return BTGreaterEqualStrategyNumber;
		return InvalidStrategy;
	}

	if (table->changelog)
	{
		if (source == KAPPA_SOURCE_PARTITION ||
			table->key_order == KAPPA_KEY_ORDER_TIMESTAMP)
			return InvalidStrategy;
		if (lower)
			return strategy;
		return strategy == BTEqualStrategyNumber ? BTGreaterEqualStrategyNumber
												 : InvalidStrategy;
	}
	return strategy;
}

static KappaRestriction *
make_comparison(const KappaTable *table, const KappaColumn *column,
				Oid operator, Node * value, bool array)
{
	TypeCacheEntry *type = lookup_type_cache(column->type,
											 TYPECACHE_BTREE_OPFAMILY);
	KappaRestriction *result;
	StrategyNumber strategy;
	Oid left;
	Oid right;

	strategy = get_op_opfamily_strategy(operator, type->btree_opf);
	if (strategy == InvalidStrategy || !is_scan_constant(value))
		return NULL;

	result = palloc0(sizeof(KappaRestriction));
	result->kind = RESTRICTION_COMPARE;
	result->source = column->source;
	result->strategy = usable_strategy(table, column->source, strategy);
	result->lossy = result->strategy != strategy;
	if (result->strategy == InvalidStrategy)
		return NULL;

	op_input_types(operator, & left, &right);
	result->type = right;
	result->value = (Expr *) value;
	result->array = array;
	return result;
}

static KappaRestriction *
create_from_operator(OpExpr *op, const KappaTable *table, Index varno)
{
	const KappaColumn *column;
	Node *left;
	Node *right;

	if (list_length(op->args) != 2)
		return NULL;
	left = linitial(op->args);
	right = lsecond(op->args);

	column = match_column(left, table, varno);
	if (column != NULL)
		return make_comparison(table, column, op->opno, right, false);

	column = match_column(right, table, varno);
	if (column != NULL && OidIsValid(get_commutator(op->opno)))
		return make_comparison(table, column, get_commutator(op->opno),
							   left, false);
	return NULL;
}

static KappaRestriction *
create_from_array(ScalarArrayOpExpr *op, const KappaTable *table, Index varno)
{
	const KappaColumn *column = match_column(linitial(op->args), table, varno);
	KappaRestriction *result;

	if (column == NULL || !op->useOr ||
		column->source == KAPPA_SOURCE_TIMESTAMP)
		return NULL;

	result = make_comparison(table, column, op->opno, lsecond(op->args), true);
	if (result == NULL || result->strategy != BTEqualStrategyNumber)
		return NULL;
	return result;
}

static KappaRestriction *
create_from_list(RestrictionKind kind, List *clauses,
				 const KappaTable *table, Index varno)
{
	KappaRestriction *result = palloc0(sizeof(KappaRestriction));
	ListCell *lc;

	result->kind = kind;
	foreach(lc, clauses)
	{
		KappaRestriction *arg = kappa_restriction_create(lfirst(lc), table,
														 varno);

		if (arg != NULL)
			result->args = lappend(result->args, arg);
		else if (kind == RESTRICTION_OR)
			return NULL;
		else
			result->lossy = true;
	}
	return result->args != NIL ? result : NULL;
}

KappaRestriction *
kappa_restriction_create(Expr *clause, const KappaTable *table, Index varno)
{
	if (IsA(clause, RestrictInfo))
		clause = ((RestrictInfo *) clause)->clause;

	if (IsA(clause, OpExpr))
		return create_from_operator((OpExpr *) clause, table, varno);
	if (IsA(clause, ScalarArrayOpExpr))
		return create_from_array((ScalarArrayOpExpr *) clause, table, varno);
	if (is_andclause(clause))
		return create_from_list(RESTRICTION_AND, ((BoolExpr *) clause)->args,
								table, varno);
	if (is_orclause(clause))
		return create_from_list(RESTRICTION_OR, ((BoolExpr *) clause)->args,
								table, varno);
	return NULL;
}

int
kappa_restriction_columns(const KappaRestriction *restriction)
{
	int columns = 0;
	ListCell *lc;

	if (restriction->kind == RESTRICTION_COMPARE)
	{
		if (restriction->source == KAPPA_SOURCE_PARTITION)
			return KAPPA_RESTRICTS_PARTITION;
		if (restriction->source == KAPPA_SOURCE_OFFSET)
			return KAPPA_RESTRICTS_OFFSET;
		return KAPPA_RESTRICTS_TIMESTAMP;
	}

	foreach(lc, restriction->args)
		columns |= kappa_restriction_columns(lfirst(lc));
	return columns;
}

void
kappa_restriction_init(KappaRestriction *restriction, PlanState *parent)
{
	ListCell *lc;

	if (restriction->kind == RESTRICTION_COMPARE)
		restriction->state = ExecInitExpr(restriction->value, parent);
	foreach(lc, restriction->args)
		kappa_restriction_init(lfirst(lc), parent);
}

void
kappa_restriction_init_estimate(KappaRestriction *restriction,
								PlannerInfo *root)
{
	ListCell *lc;

	if (restriction->kind == RESTRICTION_COMPARE)
	{
		Node *value = estimate_expression_value(root,
												(Node *) restriction->value);

		if (IsA(value, Const))
			restriction->constant = (Const *) value;
	}
	foreach(lc, restriction->args)
		kappa_restriction_init_estimate(lfirst(lc), root);
}

bool
kappa_restriction_is_exact(const KappaRestriction *restriction)
{
	ListCell *lc;

	if (restriction->lossy)
		return false;
	if (restriction->kind == RESTRICTION_COMPARE)
		return restriction->constant != NULL &&
			   restriction->source != KAPPA_SOURCE_TIMESTAMP;

	foreach(lc, restriction->args)
	{
		if (!kappa_restriction_is_exact(lfirst(lc)))
			return false;
	}
	return true;
}

/* ---- evaluating them ---- */

static int64
integer_value(Datum datum, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(datum);
		case INT4OID:
			return DatumGetInt32(datum);
		case INT8OID:
			return DatumGetInt64(datum);
		default:
			elog(ERROR, "unexpected type %u of a bound", type);
	}
}

/* The first millisecond since 1970 that is not before a point in time. */
static int64
timestamp_value(Datum datum, Oid type)
{
	const int64 epoch = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
						SECS_PER_DAY * 1000;
	TimestampTz time;
	int64 ms;

	if (type == DATEOID)
		datum = DirectFunctionCall1(date_timestamptz, datum);
	else if (type == TIMESTAMPOID)
		datum = DirectFunctionCall1(timestamp_timestamptz, datum);
	time = DatumGetTimestampTz(datum);

	if (TIMESTAMP_IS_NOBEGIN(time))
		return PG_INT64_MIN;
	if (TIMESTAMP_IS_NOEND(time))
		return PG_INT64_MAX;

	ms = time / 1000;
	if (time > 0 && time % 1000 != 0)
		ms++;
	return ms + epoch;
}

/* The box of "column operator value". */
static bool
box_of_value(const KappaRestriction *cmp, Datum datum, Box *box)
{
	int64 first = 0;
	int64 last = PG_INT64_MAX;
	int64 value;

	*box = everything;
	if (cmp->source == KAPPA_SOURCE_TIMESTAMP)
	{
		box->timestamp = timestamp_value(datum, cmp->type);
		return true;
	}

	value = integer_value(datum, cmp->type);
	switch (cmp->strategy)
	{
		case BTLessStrategyNumber:
			if (value <= 0)
				return false;
			last = value - 1;
			break;
		case BTLessEqualStrategyNumber:
			last = value;
			break;
		case BTEqualStrategyNumber:
			first = last = value;
			break;
		case BTGreaterEqualStrategyNumber:
			first = value;
			break;
		case BTGreaterStrategyNumber:
			if (value == PG_INT64_MAX)
				return false;
			first = value + 1;
			break;
	}

	first = Max(first, 0);
	if (first > last)
		return false;
	if (cmp->source == KAPPA_SOURCE_PARTITION)
	{
		box->first_partition = first;
		box->last_partition = last;
	}
	else
	{
		box->first_offset = first;
		box->last_offset = last;
	}
	return true;
}

/* Grow one box until it holds another too. */
static void
enclose_box(Box *box, const Box *other)
{
	box->first_partition = Min(box->first_partition, other->first_partition);
	box->last_partition = Max(box->last_partition, other->last_partition);
	box->first_offset = Min(box->first_offset, other->first_offset);
	box->last_offset = Max(box->last_offset, other->last_offset);
	box->timestamp = Min(box->timestamp, other->timestamp);
}

static bool
intersect_boxes(const Box *a, const Box *b, Box *result)
{
	result->first_partition = Max(a->first_partition, b->first_partition);
	result->last_partition = Min(a->last_partition, b->last_partition);
	result->first_offset = Max(a->first_offset, b->first_offset);
	result->last_offset = Min(a->last_offset, b->last_offset);
	result->timestamp = Max(a->timestamp, b->timestamp);
	return result->first_partition <= result->last_partition &&
		   result->first_offset <= result->last_offset;
}

/* Add a box; when there are too many, all become one. */
static void
add_box(BoxSet *set, const Box *box)
{
	if (set->n == MAX_BOXES)
	{
		for (int i = 1; i < set->n; i++)
			enclose_box(&set->boxes[0], &set->boxes[i]);
		set->n = 1;
	}
	set->boxes[set->n++] = *box;
}

static void
add_boxes_of_array(const KappaRestriction *cmp, Datum datum, BoxSet *set)
{
	ArrayType *array = DatumGetArrayTypeP(datum);
	int16 typlen;
	bool typbyval;
	char typalign;
	Datum *elements;
	bool *nulls;
	int n;

	get_typlenbyvalalign(ARR_ELEMTYPE(array), &typlen, &typbyval, &typalign);
	deconstruct_array(array, ARR_ELEMTYPE(array), typlen, typbyval, typalign,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		Box box;

		if (!nulls[i] && box_of_value(cmp, elements[i], &box))
			add_box(set, &box);
	}
}

static void
evaluate_comparison(const KappaRestriction *cmp, ExprContext *econtext,
					BoxSet *set)
{
	Datum datum = 0;
	bool isnull = true;
	Box box;

	if (cmp->state != NULL)
		datum = ExecEvalExprSwitchContext(cmp->state, econtext, &isnull);
	else if (cmp->constant != NULL)
	{
		datum = cmp->constant->constvalue;
		isnull = cmp->constant->constisnull;
	}
	else
	{
		add_box(set, &everything);
		return;
	}

	if (isnull)
		return;
	if (cmp->array)
		add_boxes_of_array(cmp, datum, set);
	else if (box_of_value(cmp, datum, &box))
		add_box(set, &box);
}

static void evaluate_restriction(const KappaRestriction *restriction,
								 ExprContext *econtext, BoxSet *set);

/*
 * Replace set by what it has in common with the result of a restriction; if
 * that takes too many boxes, do without the restriction.
 */
static void
intersect_restriction(const KappaRestriction *restriction,
					  ExprContext *econtext, BoxSet *set)
{
	BoxSet *other = palloc(sizeof(BoxSet));
	BoxSet *result = palloc(sizeof(BoxSet));

	evaluate_restriction(restriction, econtext, other);
	if (set->n * other->n <= MAX_BOXES)
	{
		result->n = 0;
		for (int i = 0; i < set->n; i++)
		{
			for (int j = 0; j < other->n; j++)
			{
				if (intersect_boxes(&set->boxes[i], &other->boxes[j],
									&result->boxes[result->n]))
					result->n++;
			}
		}
		set->n = result->n;
		memcpy(set->boxes, result->boxes, result->n * sizeof(Box));
	}
	pfree(result);
	pfree(other);
}

static void
evaluate_restriction(const KappaRestriction *restriction,
					 ExprContext *econtext, BoxSet *set)
{
	BoxSet *arg;
	ListCell *lc;

	set->n = 0;
	switch (restriction->kind)
	{
		case RESTRICTION_COMPARE:
			evaluate_comparison(restriction, econtext, set);
			break;

		case RESTRICTION_AND:
			add_box(set, &everything);
			foreach(lc, restriction->args)
				intersect_restriction(lfirst(lc), econtext, set);
			break;

		case RESTRICTION_OR:
			arg = palloc(sizeof(BoxSet));
			foreach(lc, restriction->args)
			{
				evaluate_restriction(lfirst(lc), econtext, arg);
				for (int i = 0; i < arg->n; i++)
					add_box(set, &arg->boxes[i]);
			}
			pfree(arg);
			break;
	}
}

/* ---- from boxes to ranges ---- */

/* Offsets by partition for one timestamp. */
typedef struct TimestampOffsets
{
	int64 timestamp;
	int64 *offsets;
} TimestampOffsets;

static bool
has_timestamp_bound(const Box *box)
{
	return box->timestamp > 0;
}

/*
 * Look up the timestamps of all boxes.  If there are many, the earliest must
 * do for all.
 */
static int
look_up_timestamps(BoxSet *set, KafkaTopic *topic, const KappaLog *log,
				   TimestampOffsets *lookups)
{
	int64 earliest = PG_INT64_MAX;
	int n = 0;

	for (int i = 0; i < set->n; i++)
	{
		Box *box = &set->boxes[i];
		int j = 0;

		if (!has_timestamp_bound(box))
			continue;
		earliest = Min(earliest, box->timestamp);
		while (j < n && lookups[j].timestamp != box->timestamp)
			j++;
		if (j < n)
			continue;
		if (n == MAX_TIMESTAMPS)
		{
			for (i = 0; i < set->n; i++)
			{
				if (has_timestamp_bound(&set->boxes[i]))
					set->boxes[i].timestamp = earliest;
			}
			return look_up_timestamps(set, topic, log, lookups);
		}
		lookups[n++].timestamp = box->timestamp;
	}

	for (int j = 0; j < n; j++)
	{
		lookups[j].offsets = palloc(log->npartitions * sizeof(int64));
		kappa_kafka_offsets_for_time(topic, log->npartitions,
									 lookups[j].timestamp, lookups[j].offsets);
	}
	return n;
}

/* The part of a box that lies in one partition; false if there is none. */
static bool
range_of_box(const Box *box, int32 partition, const KappaLog *log,
			 const TimestampOffsets *lookups, int nlookups, KappaRange *range)
{
	if (partition < box->first_partition || partition > box->last_partition)
		return false;

	range->partition = partition;
	range->base = log->begin[partition];
	range->start = Max(log->begin[partition], box->first_offset);
	range->end = log->end[partition];
	if (box->last_offset < range->end)
		range->end = box->last_offset + 1;

	for (int i = 0; i < nlookups && has_timestamp_bound(box); i++)
	{
		if (lookups[i].timestamp == box->timestamp)
			range->start = Max(range->start, lookups[i].offsets[partition]);
	}
	return range->start < range->end;
}

static int
compare_ranges(const void *a, const void *b)
{
	const KappaRange *left = a;
	const KappaRange *right = b;

	if (left->partition != right->partition)
		return left->partition < right->partition ? -1 : 1;
	if (left->start != right->start)
		return left->start < right->start ? -1 : 1;
	return 0;
}

/* Join ranges that overlap or nearly touch; the array is sorted. */
static int
merge_ranges(KappaRange *ranges, int n)
{
	int merged = 0;

	for (int i = 0; i < n; i++)
	{
		KappaRange *last = merged > 0 ? &ranges[merged - 1] : NULL;

		if (last != NULL && last->partition == ranges[i].partition &&
			ranges[i].start - last->end <= MIN_GAP)
			last->end = Max(last->end, ranges[i].end);
		else
			ranges[merged++] = ranges[i];
	}
	return merged;
}

int
kappa_ranges_resolve(List *restrictions, ExprContext *econtext,
					 KafkaTopic *topic, const KappaLog *log,
					 KappaRange **ranges)
{
	BoxSet *set = palloc(sizeof(BoxSet));
	TimestampOffsets lookups[MAX_TIMESTAMPS];
	int nlookups = 0;
	int allocated = Max(log->npartitions, 16);
	int n = 0;
	ListCell *lc;

	set->n = 0;
	add_box(set, &everything);
	foreach(lc, restrictions)
		intersect_restriction(lfirst(lc), econtext, set);
	if (topic != NULL)
		nlookups = look_up_timestamps(set, topic, log, lookups);

	*ranges = palloc(allocated * sizeof(KappaRange));
	for (int32 partition = 0; partition < log->npartitions; partition++)
	{
		for (int i = 0; i < set->n; i++)
		{
			if (n == allocated)
			{
				allocated *= 2;
				*ranges = repalloc(*ranges, allocated * sizeof(KappaRange));
			}
			if (range_of_box(&set->boxes[i], partition, log,
							 lookups, nlookups, &(*ranges)[n]))
				n++;
		}
	}
	qsort(*ranges, n, sizeof(KappaRange), compare_ranges);

	for (int j = 0; j < nlookups; j++)
		pfree(lookups[j].offsets);
	pfree(set);
	return merge_ranges(*ranges, n);
}
