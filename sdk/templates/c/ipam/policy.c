// The policy {{name}}: one address of each family that the network has ranges for. Pods with the label address=keep get the
// same addresses when they come back.
//
// What a request holds and what a decision needs is in wit/policy.wit, and as C in bindings/ipam_policy.h. A request is ours: it
// is freed here. What is returned must be on the heap: the host frees it.
#include "bindings/ipam_policy.h"

#include <stdlib.h>
#include <string.h>

typedef weft_policy_types_ip_address_t address_t;
typedef weft_policy_types_ip_range_t range_t;
typedef weft_policy_types_range_set_t range_set_t;
typedef exports_weft_policy_ipam_request_t request_t;
typedef exports_weft_policy_ipam_decision_t decision_t;
typedef exports_weft_policy_ipam_denial_t denial_t;

static bool is(const ipam_policy_string_t *text, const char *expected) {
    return text->len == strlen(expected) && memcmp(text->ptr, expected, text->len) == 0;
}

// The address as sixteen bytes in network order; the length that counts is returned.
static size_t bytes(const address_t *address, uint8_t out[16]) {
    memset(out, 0, 16);
    if (address->tag == WEFT_POLICY_TYPES_IP_ADDRESS_IPV4) {
        const weft_policy_types_ipv4_address_t *v4 = &address->val.ipv4;
        uint8_t parts[4] = {v4->f0, v4->f1, v4->f2, v4->f3};
        memcpy(out, parts, 4);
        return 4;
    }
    const weft_policy_types_ipv6_address_t *v6 = &address->val.ipv6;
    uint16_t groups[8] = {v6->f0, v6->f1, v6->f2, v6->f3, v6->f4, v6->f5, v6->f6, v6->f7};
    for (int i = 0; i < 8; i++) {
        out[2 * i] = groups[i] >> 8;
        out[2 * i + 1] = groups[i] & 0xff;
    }
    return 16;
}

// Only addresses of one family compare.
static int compare(const address_t *a, const address_t *b) {
    uint8_t left[16], right[16];
    size_t length = bytes(a, left);
    bytes(b, right);
    return memcmp(left, right, length);
}

static bool in_range(const range_t *range, const address_t *address) {
    return address->tag == range->first.tag && compare(&range->first, address) <= 0 && compare(address, &range->last) <= 0;
}

// The address after this one; false after the last one of the family.
static bool after(const address_t *address, address_t *next) {
    uint8_t parts[16];
    size_t length = bytes(address, parts), i = length;
    while (i > 0 && ++parts[i - 1] == 0) i--;
    if (i == 0) return false;
    *next = *address;
    if (length == 4) {
        weft_policy_types_ipv4_address_t v4 = {parts[0], parts[1], parts[2], parts[3]};
        next->val.ipv4 = v4;
    } else {
        uint16_t group[8];
        for (int g = 0; g < 8; g++) group[g] = (uint16_t)(parts[2 * g] << 8 | parts[2 * g + 1]);
        weft_policy_types_ipv6_address_t v6 = {group[0], group[1], group[2], group[3],
                                               group[4], group[5], group[6], group[7]};
        next->val.ipv6 = v6;
    }
    return true;
}

// The lowest free address of a range that is not its gateway.
static bool lowest(range_t *range, address_t *found) {
    if (!weft_policy_ledger_next_free(range, &range->first, found)) return false;
    if (range->gateway.is_some && range->gateway.val.tag == found->tag && compare(&range->gateway.val, found) == 0) {
        address_t next;
        return after(found, &next) && weft_policy_ledger_next_free(range, &next, found);
    }
    return true;
}

// The address of this range that was kept for the pod.
static bool kept(const request_t *request, const range_t *range, address_t *found) {
    for (size_t i = 0; i < request->held.len; i++) {
        const weft_policy_types_claim_t *claim = &request->held.ptr[i];
        if (claim->state == WEFT_POLICY_TYPES_CLAIM_STATE_KEPT && in_range(range, &claim->address)) {
            *found = claim->address;
            return true;
        }
    }
    return false;
}

// An address of a set: kept ones first.
static bool pick(request_t *request, range_set_t *set, weft_policy_types_wanted_address_t *wanted) {
    for (int wants_kept = 1; wants_kept >= 0; wants_kept--) {
        for (size_t i = 0; i < set->ranges.len; i++) {
            range_t *range = &set->ranges.ptr[i];
            address_t found;
            if (!(wants_kept ? kept(request, range, &found) : lowest(range, &found))) continue;
            wanted->candidates.ptr = malloc(sizeof *wanted->candidates.ptr);
            if (!wanted->candidates.ptr) abort();
            wanted->candidates.ptr[0].address = found;
            wanted->candidates.ptr[0].length = range->subnet.length;
            wanted->candidates.len = 1;
            wanted->gateway = range->gateway;
            return true;
        }
    }
    return false;
}

static bool keeps(const request_t *request) {
    if (!request->pod.is_some || request->identities.len == 0) return false;
    const weft_policy_types_list_pair_t *labels = &request->pod.val.labels;
    for (size_t i = 0; i < labels->len; i++)
        if (is(&labels->ptr[i].key, "address") && is(&labels->ptr[i].value, "keep")) return true;
    return false;
}

static bool deny(uint8_t tag, const char *text, denial_t *denial) {
    denial->tag = tag;
    // All cases of a denial are texts in the same place.
    ipam_policy_string_dup(&denial->val.denied, text);
    return false;
}

// The decision; false where it is a denial.
static bool decide(request_t *request, decision_t *decision, denial_t *denial) {
    memset(decision, 0, sizeof *decision);
    decision->addresses.ptr = calloc(2, sizeof *decision->addresses.ptr);
    if (!decision->addresses.ptr) abort();
    bool seen[2] = {false, false};
    for (size_t i = 0; i < request->range_sets.len; i++) {
        range_set_t *set = &request->range_sets.ptr[i];
        // The first range set of each family.
        if (set->ranges.len == 0 || seen[set->ranges.ptr[0].first.tag]) continue;
        seen[set->ranges.ptr[0].first.tag] = true;
        if (!pick(request, set, &decision->addresses.ptr[decision->addresses.len]))
            return deny(WEFT_POLICY_TYPES_DENIAL_EXHAUSTED, "no address is free in the ranges of the network", denial);
        decision->addresses.len++;
    }
    if (decision->addresses.len == 0)
        return deny(WEFT_POLICY_TYPES_DENIAL_INVALID_CONFIG, "the network has no ranges", denial);
    decision->release.tag = WEFT_POLICY_TYPES_RELEASE_RULE_FREE;
    if (keeps(request)) {
        decision->release.tag = WEFT_POLICY_TYPES_RELEASE_RULE_KEEP;
        ipam_policy_string_t *owner = &request->identities.ptr[0];
        ipam_policy_string_dup_n(&decision->release.val.keep, (const char *)owner->ptr, owner->len);
    }
    // Moved: it is not freed with the request.
    decision->dns = request->resolver;
    request->resolver.is_some = false;
    ipam_policy_string_dup(&decision->reason, "the lowest free address");
    return true;
}

bool exports_weft_policy_ipam_allocate(request_t *request, decision_t *decision, denial_t *denial) {
    decision_t made;
    bool decided = decide(request, &made, denial);
    if (decided)
        *decision = made;
    else
        exports_weft_policy_ipam_decision_free(&made);
    exports_weft_policy_ipam_request_free(request);
    return decided;
}

// What is wrong with the network's ipam object, given as JSON text.
void exports_weft_policy_ipam_validate(ipam_policy_string_t *config, exports_weft_policy_ipam_list_problem_t *problems) {
    ipam_policy_string_free(config);
    problems->ptr = NULL;
    problems->len = 0;
}

void exports_weft_policy_ipam_config_schema(ipam_policy_string_t *schema) {
    ipam_policy_string_dup(schema,
                           "{\"type\": \"object\", \"required\": [\"ranges\"], \"properties\": {\"ranges\": {\"type\": \"array\"}}}");
}
