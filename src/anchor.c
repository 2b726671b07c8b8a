/*-------------------------------------------------------------------------
 *
 * anchor.c
 *	  Whether a topic that is being read is still the same one
 *
 * librdkafka knows topics by their names.  If one is deleted and made again
 * within a moment, it goes on where it was as soon as somebody answers; and if
 * the new log is long enough, nothing tells.  The rows of two logs would mix.
 *
 * So an applied message of each partition, the anchor, is remembered, and with
 * each look for new partitions the brokers are asked for the first message that
 * is younger.  It must lie behind the anchor, for ever: what a log holds does
 * not change.  In a new log it lies before it, unless somebody wrote the
 * messages again with their old timestamps.  Then the views compare the anchor
 * itself, as they compare the last message at each start (deliver.c): what they
 * have applied last may come from the new log.
 *
 * Where timestamps go backwards in a partition, it may have younger messages
 * before the anchor.  That costs one comparison, and then the partition has no
 * anchor any more.
 *
 * A leader that lacks only the last messages is not found like that; fetch.c notes
 * that there is another one.
 *
 * Reading a message again each time would tell more.  But a consumer that has
 * begun to read a partition while the topic goes away may never be closed again
 * (librdkafka 2.0.2): asking for offsets is safe.
 *
 * IDENTIFICATION
 *	  src/anchor.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "anchor.h"
#include "kafka_admin.h"

void
kappa_anchor_propose(KappaSource *source, int partition)
{
	if (source->anchor.offset[partition] >= 0 || source->last.timestamp[partition] < 0 ||
		bms_is_member(partition, source->unanchored))
		return;
	kappa_source_copy_message(&source->anchor, &source->last, partition);
}

/* A partition whose first message younger than the anchor lies before it; or -1. */
static int
find_doubt(KappaSource *source, KafkaTopic *topic)
{
	int n = source->npartitions;
	int64 *after = palloc(Max(n, 1) * sizeof(int64));
	int64 *younger = palloc(Max(n, 1) * sizeof(int64));

	for (int p = 0; p < n; p++)
		after[p] = source->anchor.offset[p] >= 0 ? source->anchor.timestamp[p] + 1 : -1;
	kappa_kafka_offsets_for_times(topic, n, after, younger);
	for (int p = 0; p < n; p++)
		if (after[p] >= 0 && younger[p] >= 0 && younger[p] <= source->anchor.offset[p])
			return p;
	return -1;
}

void
kappa_anchor_check(KappaSource *source, KafkaTopic *topic)
{
	int p = find_doubt(source, topic);
	MemoryContext old;

	if (p < 0)
		return;
	kappa_source_compare_anchor(source, p);
	old = MemoryContextSwitchTo(source->context);
	source->unanchored = bms_add_member(source->unanchored, p);
	MemoryContextSwitchTo(old);
	source->anchor.offset[p] = -1;
}
