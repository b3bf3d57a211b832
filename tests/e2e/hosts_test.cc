#include "conversation.h"
namespace bpftime::e2e {
namespace {
using Hosts = VictimTest;

TEST_F(Hosts, DetachedAndAttachedUnderLoad) {
  Conversation target = victim();
  attach(target);
  Child tool = stat_tool("latency");
  Child through = stat_tool("latency", "victim_through");
  target.ask("hammer 4");
  const std::string pid = std::to_string(target.pid());
  for (int round = 0; round < 100; ++round) {
    const Finished detached = bpftime({"detach", pid});
    EXPECT_EQ(detached.code, 0) << detached.error;
    EXPECT_TRUE(restored(target.pid()));
    const Finished attached = bpftime({"attach", pid});
    EXPECT_EQ(attached.code, 0) << attached.error;
    EXPECT_FALSE(restored(target.pid()));
    ASSERT_TRUE(target.child().running()) << "round " << round << ": ended with " << *target.child().wait();
  }
  const std::string hammered = target.ask("hammer_stop");
  EXPECT_NE(hammered.find(" wrong 0\n"), std::string::npos) << hammered;
  EXPECT_EQ(bpftime({"detach", pid}).code, 0);
  EXPECT_TRUE(restored(target.pid()));
  finish_tool(tool);
  finish_tool(through);
}
}
}
