// (bpf_tool wants one.)
#pragma once
