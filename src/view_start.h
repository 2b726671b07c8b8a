/*-------------------------------------------------------------------------
 *
 * view_start.h
 *	  Where in the log a view starts
 *
 * IDENTIFICATION
 *	  src/view_start.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_START_H
#define KAPPA_VIEW_START_H

#include "datatype/timestamp.h"

#include "kafka_admin.h"

typedef enum KappaStartKind
{
	KAPPA_START_EARLIEST, /* the beginning of the log */
	KAPPA_START_LATEST,   /* its end as it stands */
	KAPPA_START_TIME,     /* the first message from a moment on */
} KappaStartKind;

/* What a caller has asked for. */
typedef struct KappaStart
{
	KappaStartKind kind;
	TimestampTz at; /* from when on messages belong to the view; DT_NOBEGIN: from the beginning */
} KappaStart;

/* earliest, latest or a timestamp.  Throws 22007 and the like for other words. */
extern KappaStart *kappa_start_parse(const char *text);

/*
 * Offsets by partition.  The beginning of the log is symbolic (NULL, no
 * partition is known), so that messages removed from it before the first batch
 * do not matter.  Everything else is resolved here and now: a message that is
 * written after create_view(start => 'latest') must be in the view.
 */
extern int64 *kappa_start_resolve(const KappaStart *start, KafkaTopic *topic, int *npartitions);

/* A timestamp of Kafka, milliseconds since 1970. */
extern TimestampTz kappa_start_from_kafka(int64 ms);

#endif /* KAPPA_VIEW_START_H */
