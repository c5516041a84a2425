#!/usr/bin/python3
"""Applies a strategic merge patch to the manifests on standard input, as kustomize does, which Debian has too old a one of.

    apply_patch.py PATCH.yaml <manifests.yaml

Maps are merged, null takes a key out, and lists of objects are merged by what tells those apart: name or mountPath.
"""

import sys

import yaml


def merge(base, patch):
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = dict(base)
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(base.get(key), value)
        return merged
    if isinstance(base, list) and patch and isinstance(patch[0], dict):
        key = "mountPath" if "mountPath" in patch[0] else "name"
        merged = {item[key]: item for item in base}
        for item in patch:
            merged[item[key]] = merge(merged.get(item[key]), item)
        return list(merged.values())
    return patch


with open(sys.argv[1], encoding="utf-8") as file:
    patch = yaml.safe_load(file)
manifests = [manifest for manifest in yaml.safe_load_all(sys.stdin) if manifest is not None]
hits = 0
for i, manifest in enumerate(manifests):
    if (manifest["kind"], manifest["metadata"]["name"]) == (patch["kind"], patch["metadata"]["name"]):
        manifests[i] = merge(manifest, patch)
        hits += 1
if hits != 1:
    sys.exit(f"{sys.argv[1]} patches {hits} of the {len(manifests)} manifests, want 1")
yaml.safe_dump_all(manifests, sys.stdout)
