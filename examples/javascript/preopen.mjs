// preview2-shim 0.26 opens no folder by itself; componentize-js 0.23 reads its WIT through it and expects "/".
import { _addPreopen } from "@bytecodealliance/preview2-shim/filesystem";
_addPreopen("/", "/");
