/*-------------------------------------------------------------------------
 *
 * fdw_bounds.h
 *	  Offset bounds that this process has bound to foreign tables
 *
 * How to bind and unbind them is in fdw_scan.h, for the rest of kappa.
 *
 * IDENTIFICATION
 *	  src/fdw_bounds.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_BOUNDS_H
#define KAPPA_FDW_BOUNDS_H

#include "fdw_ranges.h"

/* The bounds of a table, as a log; throws 55000 if there are none. */
extern const KappaLog *kappa_bounds_get(Oid relid);

/*
 * Take what is to be passed over out of n sorted ranges of the table's log.
 * The array may be palloc'd anew; returns how many ranges there are.
 */
extern int kappa_bounds_cut_gaps(Oid relid, KappaRange **ranges, int n);

/*
 * What kappa.message_offset() says of a row of a scan, by its place after the
 * scan's start: that place, or the offset (kappa_fdw_number_messages).
 */
extern int64 kappa_bounds_get_offset(Oid relid, int partition, int64 place);

/* A scan between the bounds, or of what comes after them, has ended: what it has read. */
extern void kappa_bounds_count(Oid relid, bool later, uint64 offsets, uint64 messages,
							   uint64 bytes);

#endif /* KAPPA_FDW_BOUNDS_H */
