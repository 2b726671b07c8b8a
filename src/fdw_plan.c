/*-------------------------------------------------------------------------
 *
 * fdw_plan.c
 *	  What the planner hands to the executor, as nodes
 *
 * IDENTIFICATION
 *	  src/fdw_plan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fdw_scan.h"
#include "nodes/value.h"

/* Members of ForeignScan.fdw_private. */
enum
{
	PRIVATE_MODE,          /* Integer: KappaScanMode */
	PRIVATE_USERID,        /* Integer: role, or 0 */
	PRIVATE_COLUMNS,       /* integer list: attribute numbers */
	PRIVATE_NEED_CTID,     /* Integer: 0 or 1 */
	PRIVATE_NRESTRICTIONS, /* Integer: how many of fdw_exprs restrict the log */
};

void
kappa_scan_store_plan(const KappaScanPlan *plan, List **fdw_private,
					  List **fdw_exprs)
{
	List *columns = NIL;
	int attnum = -1;

	while ((attnum = bms_next_member(plan->columns, attnum)) >= 0)
		columns = lappend_int(columns, attnum);

	*fdw_private = list_make5(makeInteger(plan->mode),
							  makeInteger((int) plan->userid),
							  columns,
							  makeInteger(plan->need_ctid),
							  makeInteger(list_length(plan->restrictions)));
	*fdw_exprs = list_concat_copy(plan->restrictions, plan->key_clauses);
}

void
kappa_scan_load_plan(const ForeignScan *scan, KappaScanPlan *plan)
{
	List *private = scan->fdw_private;
	int nrestrictions = intVal(list_nth(private, PRIVATE_NRESTRICTIONS));
	ListCell *lc;

	memset(plan, 0, sizeof(KappaScanPlan));
	plan->mode = intVal(list_nth(private, PRIVATE_MODE));
	plan->userid = (Oid) intVal(list_nth(private, PRIVATE_USERID));
	plan->need_ctid = intVal(list_nth(private, PRIVATE_NEED_CTID)) != 0;
	foreach(lc, (List *) list_nth(private, PRIVATE_COLUMNS))
		plan->columns = bms_add_member(plan->columns, lfirst_int(lc));
	foreach(lc, scan->fdw_exprs)
	{
		if (foreach_current_index(lc) < nrestrictions)
			plan->restrictions = lappend(plan->restrictions, lfirst(lc));
		else
			plan->key_clauses = lappend(plan->key_clauses, lfirst(lc));
	}
}
