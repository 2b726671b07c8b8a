/*-------------------------------------------------------------------------
 *
 * decode_path.c
 *	  Paths of columns, compiled for the JSON parser
 *
 * All paths of a document become one tree of names, so that the parser finds
 * every wanted field in a single pass, however many columns there are.
 *
 * IDENTIFICATION
 *	  src/decode_path.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "decode_json_shape.h"
#include "decode_path.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"

/* A node while the tree is built; the parser's form is made at the end. */
typedef struct PathNode
{
	KappaJsonNode node; /* must be first: children are both */
	List *children;     /* of PathNode */
	List *columns;      /* positions (int) of the columns that end here */
} PathNode;

/*
 * The array index that a step stands for, or -1.  Only the usual way to write
 * a number counts, so that no two names mean the same element.
 */
static int32
step_index(const char *step)
{
	int64 index = 0;

	if (step[0] == '\0' || (step[0] == '0' && step[1] != '\0'))
		return -1;
	for (const char *p = step; *p != '\0'; p++)
	{
		if (*p < '0' || *p > '9')
			return -1;
		index = index * 10 + (*p - '0');
		if (index > PG_INT32_MAX)
			return -1;
	}
	return (int32) index;
}

static PathNode *
make_path_node(const char *name)
{
	PathNode *result = palloc0(sizeof(PathNode));

	result->node.name = pstrdup(name);
	result->node.name_len = strlen(name);
	result->node.index = step_index(name);
	return result;
}

static PathNode *
find_or_add_child(PathNode *parent, const char *step)
{
	ListCell *lc;
	PathNode *child;

	foreach(lc, parent->children)
	{
		child = lfirst(lc);
		if (strcmp(child->node.name, step) == 0)
			return child;
	}
	child = make_path_node(step);
	parent->children = lappend(parent->children, child);
	return child;
}

/* Fill the two ways to find a child: by place and by name. */
static void
index_children(PathNode *path_node)
{
	KappaJsonNode *node = &path_node->node;
	uint32 size = pg_nextpower2_32(2 * list_length(path_node->children) + 1);
	ListCell *lc;

	node->max_index = -1;
	node->mask = size - 1;
	node->members = palloc0(size * sizeof(KappaJsonNode *));
	node->children = palloc((list_length(path_node->children) + 1) *
							sizeof(KappaJsonNode *));

	foreach(lc, path_node->children)
	{
		KappaJsonNode *child = lfirst(lc);
		uint32 h = kappa_json_hash(child->name, child->name_len);

		while (node->members[h & node->mask] != NULL)
			h++;
		node->members[h & node->mask] = child;
		node->children[node->nchildren++] = child;
		node->max_index = Max(node->max_index, child->index);
	}
}

/* Number the slots of a node and all below it, and finish the nodes. */
static void
finish_node(KappaJsonPaths *paths, PathNode *path_node, int *slots)
{
	KappaJsonNode *node = &path_node->node;
	ListCell *lc;

	/* A path is as long as its writer likes. */
	check_stack_depth();

	node->slot = -1;
	node->first_slot = paths->nslots;
	if (path_node->columns != NIL)
		node->slot = paths->nslots++;
	foreach(lc, path_node->columns)
		slots[lfirst_int(lc)] = node->slot;

	foreach(lc, path_node->children)
		finish_node(paths, lfirst(lc), slots);
	node->end_slot = paths->nslots;

	index_children(path_node);
	paths->max_name_len = Max(paths->max_name_len, node->name_len);
}

KappaJsonPaths *
kappa_path_compile(List *columns, int *slots)
{
	KappaJsonPaths *paths = palloc0(sizeof(KappaJsonPaths));
	PathNode *root = make_path_node("");
	ListCell *lc;

	foreach(lc, columns)
	{
		const KappaColumn *column = lfirst(lc);
		PathNode *node = root;

		for (int i = 0; i < column->npath; i++)
			node = find_or_add_child(node, column->path[i]);
		node->columns = lappend_int(node->columns, foreach_current_index(lc));
	}

	finish_node(paths, root, slots);
	paths->root = &root->node;
	paths->scratch = palloc(6 * paths->max_name_len + 1);
	paths->shapes = palloc0(sizeof(KappaJsonShapes));
	return paths;
}
