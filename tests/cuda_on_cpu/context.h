// Switching between stacks: make_context(), switch_to(). For shim.cpp alone.
#pragma once

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace samebits {
namespace shim {
namespace {

constexpr int kStack = 128 * 1024;

#if defined(__x86_64__)
// ucontext asks the kernel for the signal mask at every switch; this saves what the calling convention says and no
// more.
typedef void* Context;
extern "C" void samebits_shim_switch(void** from, void* to);
asm(R"(
.text
.type samebits_shim_switch, @function
.hidden samebits_shim_switch
.globl samebits_shim_switch
samebits_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size samebits_shim_switch, .-samebits_shim_switch
)");
void switch_to(Context* from, Context* to) { samebits_shim_switch(from, *to); }
void make_context(Context* context, char* stack, void (*entry)()) {
  void** top = (void**)(stack + kStack) - 2;  // after `ret` the stack is as a call would leave it
  top[0] = (void*)entry;
  for (int i = 1; i <= 6; i++) top[-i] = nullptr;
  *context = top - 6;
}
#else
typedef ucontext_t Context;
void switch_to(Context* from, Context* to) { swapcontext(from, to); }
void make_context(Context* context, char* stack, void (*entry)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = kStack;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}
#endif

}  // namespace
}  // namespace shim
}  // namespace samebits
