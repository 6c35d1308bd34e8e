// The policy {{name}}: the pod's label network names the delegate; a pod without it gets the first one.
//
// What a request holds and what a choice needs is in wit/policy.wit, and as C in bindings/delegate_policy.h. A request is ours: it
// is freed here. What is returned must be on the heap: the host frees it.
#include "bindings/delegate_policy.h"

#include <stdlib.h>
#include <string.h>

typedef exports_weft_policy_delegate_choice_choice_request_t request_t;
typedef exports_weft_policy_delegate_choice_choice_t choice_t;
typedef exports_weft_policy_delegate_choice_denial_t denial_t;

static bool is(const delegate_policy_string_t *text, const char *expected) {
    return text->len == strlen(expected) && memcmp(text->ptr, expected, text->len) == 0;
}

static bool same(const delegate_policy_string_t *a, const delegate_policy_string_t *b) {
    return a->len == b->len && memcmp(a->ptr, b->ptr, a->len) == 0;
}

static void copy(delegate_policy_string_t *to, const delegate_policy_string_t *from) {
    delegate_policy_string_dup_n(to, (const char *)from->ptr, from->len);
}

// The value of the pod's label network; NULL where it has none.
static const delegate_policy_string_t *label(const request_t *request) {
    if (!request->pod.is_some) return NULL;
    for (size_t i = 0; i < request->pod.val.labels.len; i++)
        if (is(&request->pod.val.labels.ptr[i].key, "network")) return &request->pod.val.labels.ptr[i].value;
    return NULL;
}

// The text in three parts: C has no formatting without WASI's standard streams.
static bool deny(const char *before, const delegate_policy_string_t *name, const char *after, denial_t *denial) {
    size_t first = strlen(before), last = strlen(after);
    char *text = malloc(first + name->len + last + 1);
    if (!text) abort();
    memcpy(text, before, first);
    memcpy(text + first, name->ptr, name->len);
    memcpy(text + first + name->len, after, last + 1);
    denial->tag = WEFT_POLICY_TYPES_DENIAL_DENIED;
    denial->val.denied.ptr = (uint8_t *)text;
    denial->val.denied.len = first + name->len + last;
    return false;
}

static bool decide(const request_t *request, choice_t *choice, denial_t *denial) {
    memset(choice, 0, sizeof *choice);
    const delegate_policy_string_t *wanted = label(request);
    for (size_t i = 0; i < request->candidates.len; i++) {
        const delegate_policy_string_t *name = &request->candidates.ptr[i].name;
        if (wanted && !same(name, wanted)) continue;
        copy(&choice->name, name);
        delegate_policy_string_dup(&choice->reason, wanted ? "the pod's label names it" : "it is the first");
        return true;
    }
    if (wanted) return deny("there is no delegate \"", wanted, "\" on this network", denial);
    denial->tag = WEFT_POLICY_TYPES_DENIAL_INVALID_CONFIG;
    delegate_policy_string_dup(&denial->val.invalid_config, "the network has no delegates");
    return false;
}

bool exports_weft_policy_delegate_choice_choose(request_t *request, choice_t *choice, denial_t *denial) {
    choice_t made;
    bool decided = decide(request, &made, denial);
    if (decided) *choice = made;
    exports_weft_policy_delegate_choice_choice_request_free(request);
    return decided;
}

// What is wrong with the network's select object, given as JSON text.
void exports_weft_policy_delegate_choice_validate(delegate_policy_string_t *config,
                                                  exports_weft_policy_delegate_choice_list_candidate_t *candidates,
                                                  exports_weft_policy_delegate_choice_list_problem_t *problems) {
    delegate_policy_string_free(config);
    exports_weft_policy_delegate_choice_list_candidate_free(candidates);
    problems->ptr = NULL;
    problems->len = 0;
}

void exports_weft_policy_delegate_choice_config_schema(delegate_policy_string_t *schema) {
    delegate_policy_string_dup(schema, "{\"type\": \"object\"}");
}
