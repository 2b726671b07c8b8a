/*-------------------------------------------------------------------------
 *
 * append.h
 *	  Insert the rows of a query into a table, many at a time
 *
 * IDENTIFICATION
 *	  src/append.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_APPEND_H
#define KAPPA_APPEND_H

#include "tcop/dest.h"

/*
 * Whether INSERT ... SELECT into a table may be replaced: false if somebody has
 * made it more than a table with indexes and constraints, triggers for one.
 * The caller holds a lock on it.
 */
extern bool kappa_append_is_possible(Oid target);

/*
 * A receiver that inserts all rows of one execution of a query, whose columns
 * are those of the table, in their order.  As COPY does, and unlike INSERT, it
 * writes many rows into a page at once and logs them together.  No privileges
 * are checked.
 */
extern DestReceiver *kappa_append_create_receiver(Oid target);

#endif /* KAPPA_APPEND_H */
