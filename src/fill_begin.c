/*-------------------------------------------------------------------------
 *
 * fill_begin.c
 *	  Hand a version over to the processes that replay the log into it
 *
 * IDENTIFICATION
 *	  src/fill_begin.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/lsyscache.h"

#include "append.h"
#include "definition.h"
#include "fault.h"
#include "fill.h"
#include "fill_step.h"
#include "kappa.h"
#include "view_fill.h"

/* No range is cut into parts smaller than that, nor than what is worth a replay. */
#define MIN_RANGE 50000

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

/*
 * Into how many ranges a partition with "size" of the messages that are left in
 * nparts partitions is cut, so that there is work for all: two for
 * each process at least, and more where one partition has much of the messages.
 * If there are many partitions, they are read side by side and not cut: of those
 * that are, a process takes one range at a time.
 */
static int
choose_pieces(int64 size, int64 left, int nparts)
{
	int wanted = 2 * kappa_rebuild_workers;

	if (nparts > wanted)
		return 1;
	return Max((wanted + nparts - 1) / nparts, (int) rint((double) wanted * size / left));
}

/*
 * Make the size of ranges larger by an eighth at most.  Then versions that are new
 * together as a rule meet at the same offsets, even if the log has grown a little
 * between them; those that do not are read for alone.
 */
static int64
round_size(int64 size)
{
	int64 step = 1;

	while (step * 16 <= size)
		step *= 2;
	return (size + step - 1) / step * step;
}

static void
insert_ranges(const KappaApplier *applier, const int64 *end, int64 left, bool cut)
{
	int64 min = Min(MIN_RANGE, Max(kappa_replay_min, 1));
	int nparts = 0;

	for (int p = 0; p < applier->npartitions; p++)
		nparts += end[p] > applier->next_offset[p];
	for (int p = 0; p < applier->npartitions; p++)
	{
		int64 start = applier->next_offset[p];
		int pieces = cut && start < end[p] ? choose_pieces(end[p] - start, left, nparts) : 1;
		int64 size = round_size(Max((end[p] - start + pieces - 1) / pieces, min));

		for (; start < end[p]; start += size)
		{
			KappaFillRange range = { p, start, start, Min(start + size, end[p]), 0 };

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
	kappa_definition_use_tablespace_of(applier->view);
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
	int64 left;

	if (fill != NULL)
		return fill->active;
	left = count_left(applier, end);
	if (kappa_replay_min < 0 || left < Max(kappa_replay_min, 1))
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
	insert_ranges(applier, end, left, !kappa_fill_is_read(applier, staging));
	KAPPA_FAULT(REPLAY_PLANNED, applier->view);
	return true;
}
