/*-------------------------------------------------------------------------
 *
 * source.h
 *	  What a worker reads: topics, through the connections of views' owners
 *
 * IDENTIFICATION
 *	  src/source.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_SOURCE_H
#define KAPPA_SOURCE_H

#include "connection.h"
#include "worker.h"

/*
 * Where a partition could not be read.  What comes of it after that is dropped,
 * as it may lie behind a gap, and once the messages before it are applied the
 * source starts again, from where its views stand: what cannot be read there
 * either is trouble.
 */
typedef struct KappaBreak
{
	int error;        /* librdkafka's code; 0: there was none, or it has been passed */
	int32 partition;  /* -1: the whole topic */
	int64 offset;     /* that was to be read next */
	bool repeated;    /* it was there when the source was started before */
	char reason[256]; /* librdkafka's words */
} KappaBreak;

/*
 * A topic read through a connection, for the views that want it.
 *
 * fetched[p] is the head of what has been taken from the log of a partition;
 * all below has been handed to the views, but for the messages in hand.  It is
 * never above the next offset of a view at the time when the partition was
 * started, so that after a delivery every view's next offset is at least
 * fetched[p].
 */
typedef struct KappaSource
{
	MemoryContext context; /* holds it; child of KappaWorkerContext */
	Oid serverid;
	Oid owner;
	Oid limited;                 /* the view whose rate is limited, alone; InvalidOid: none is */
	int message_rate;            /* of that; 0: as many as come */
	char *name;                  /* of the topic */
	KappaConnection *connection; /* NULL until the first start */
	KafkaTopic *topic;
	List *views; /* of KappaServed, in the order of their OIDs and versions */

	/* The log; arrays of npartitions. */
	bool started; /* partitions are being fetched */
	bool stale;   /* a view has not been told about the log yet */
	int npartitions;
	int64 *begin;
	int64 *end;              /* as last seen */
	int64 *eof;              /* where the end was met, since started or then; -1: not yet */
	int64 *fetched;          /* -1: the partition is not started */
	int64 *broker;           /* that messages come from; -1: none has come since started */
	KappaLastMessage last;   /* delivered of each partition; offset -1: none */
	KappaLastMessage anchor; /* messages that have to stay; see anchor.h */
	Bitmapset *unanchored;   /* partitions that are not to have one */

	/* The batch in hand. */
	KappaMessage *messages;
	int nmessages;
	int nallocated;
	Size nbytes;
	bool readable;   /* there may be more */
	bool advanced;   /* EOF events have moved fetched[] beyond the messages */
	bool unrecorded; /* the last messages of a view are to be recorded */
	bool settled;    /* something was delivered since it was started */
	bool delivered;  /* and its rebuilds have not been looked at since */
	bool unreported; /* EOF events have come since the last report */
	uint64 fetch_us;
	TimestampTz next_batch_at;
	TimestampTz next_store_at; /* of a position, or last messages, without new ones */

	/* What could not be read. */
	Bitmapset *broken;            /* partitions, since it was started */
	Bitmapset *moved;             /* partitions that another broker has now, likewise */
	KappaBreak last_break;        /* the first of them; survives a new start */
	Bitmapset *leaderless;        /* partitions without a leader at the last look */
	TimestampTz failing_since;    /* questions beside the fetch fail; 0: the last one did not */
	TimestampTz unanswered_since; /* a leader that the brokers name does not answer; 0: all do */
	bool headless;                /* one of both for longer: views are shown as retrying */

	/* Decoding; made anew when the set of views changes. */
	MemoryContext table_context;
	List *tables; /* of KappaSourceTable */

	/* Times to do something; 0: not due. */
	TimestampTz metadata_at;
	TimestampTz ends_at;
	bool ask_failed;      /* the last question for the ends: not before ends_at again */
	TimestampTz retry_at; /* while not started */
	TimestampTz trouble_at;
	int failures;
	bool suspended; /* its views are shown as retrying */
} KappaSource;

extern List *kappa_sources; /* of KappaSource */

/* Put a view with an open applier to its source, or take it away. */
extern void kappa_source_add_view(KappaServed *served);
extern void kappa_source_remove_view(KappaServed *served);

/* Free sources without views, and connections without sources. */
extern void kappa_source_sweep(void);

/*
 * Do what is due but for the delivery: start, ask how the log stands, fetch.
 * No message may be in hand when views were added.
 */
extern void kappa_source_serve(KappaSource *source, TimestampTz now);

/* Close connections whose server or user mapping has changed. */
extern void kappa_source_reread_connections(void);

/* How many messages a batch may have; and whether the one in hand may have more. */
extern int kappa_source_max_messages(const KappaSource *source);
extern bool kappa_source_has_room(const KappaSource *source);

/* Whether a delivery is due. */
extern bool kappa_source_has_batch(KappaSource *source, TimestampTz now);

/*
 * The source cannot be read for now.  shown: its views are shown as retrying;
 * otherwise the next attempt follows at once, and only its failure will be.
 */
extern void kappa_source_note_trouble(KappaSource *source, const ErrorData *error, bool shown);

/*
 * Likewise, shown, for an error of a question that any broker can answer.  If the
 * whole client is in trouble this concerns all sources of the connection: none of
 * them needs to find out for itself.
 */
extern void kappa_source_note_broker_trouble(KappaSource *source, const ErrorData *error);

/*
 * It may be another log: start the source again, and let the views compare a
 * partition's anchor; or start the partitions that have moved again, and let them
 * compare what they have applied last.
 */
extern void kappa_source_compare_anchor(KappaSource *source, int partition);
extern void kappa_source_compare_moved(KappaSource *source);

/* What is known of a partition's message; both have room for the partition. */
extern void kappa_source_copy_message(KappaLastMessage *to, const KappaLastMessage *from,
									  int partition);

/* Partitions have another leader, or had none: nothing of it is to be applied before. */
extern void kappa_source_note_moved(KappaSource *source, const Bitmapset *partitions);

/*
 * Messages or ends of partitions arrive: whatever it was is over, unless it was
 * a place in the log that none of them lies behind.
 */
extern void kappa_source_note_success(KappaSource *source);

/* True if every partition has been read up to an EOF event and nothing is in hand. */
extern bool kappa_source_at_end(KappaSource *source);

/* True if every partition has been read to an end that it had, since it was started. */
extern bool kappa_source_has_seen_ends(KappaSource *source);

/* The socket of a connection has become readable. */
extern void kappa_source_note_readable(KappaConnection *connection);

/* The earliest of the source's times, or 0. */
extern TimestampTz kappa_source_next_moment(KappaSource *source);

#endif /* KAPPA_SOURCE_H */
